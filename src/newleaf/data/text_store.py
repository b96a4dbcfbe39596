"""The text store: all text of a corpus in one file of UTF-8 bytes, and where each document ends."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.data.bad_documents import BadDocumentError

BLOCK_BYTES = 4 * 2**20
SAMPLE_PIECE_BYTES = 64 * 2**10


@dataclass(frozen=True)
class TextRange:
    """A run of documents in a text store: bytes `start` to `stop` of `path`.

    It is read in blocks and not memory-mapped: mapped pages count as the process's memory, and a corpus may
    exceed it.
    """

    path: Path
    start: int
    stop: int
    first_document: int
    n_documents: int
    n_chars: int
    fingerprint: str = ""

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each document ends, in bytes of the file."""
        ends = np.fromfile(
            document_ends_path(self.path), dtype="<i8", count=self.n_documents, offset=self.first_document * 8
        )
        clipped: npt.NDArray[np.int64] = np.minimum(ends, self.stop)
        return clipped

    def documents(self) -> Iterator[str]:
        """Each document whole; for texts whose documents fit into memory."""
        parts: list[str] = []
        for piece, starts in self.pieces():
            if starts and parts:
                yield "".join(parts)
                parts = []
            parts.append(piece)
        if parts:
            yield "".join(parts)

    def pieces(self, size: int = BLOCK_BYTES) -> Iterator[tuple[str, bool]]:
        """Text of at most `size` bytes at a time, never across documents, and whether it starts one."""
        with self.path.open("rb", buffering=BLOCK_BYTES) as file:
            start = file.seek(self.start)
            for end in self.ends.tolist():
                decoder = codecs.getincrementaldecoder("utf-8")()
                for at in range(start, end, size):
                    yield decoder.decode(file.read(min(size, end - at))), at == start
                start = end

    def sample(self, max_bytes: int) -> Iterator[str]:
        """Pieces of the text, at most `max_bytes` together, spread evenly over it; all of it when it fits."""
        if self.n_bytes <= max_bytes:
            yield from (piece for piece, _ in self.pieces())
            return
        n = max(1, max_bytes // SAMPLE_PIECE_BYTES)
        size = max_bytes // n
        with self.path.open("rb") as file:
            for k in range(n):
                begin = self.start + k * (self.n_bytes - size) // max(1, n - 1)
                yield from self._between(file, begin, begin + size)

    def _between(self, file: Any, begin: int, end: int) -> Iterator[str]:
        """The text of a byte range, document by document; characters cut in half at its ends are left out."""
        file.seek(begin)
        data = file.read(end - begin)
        first, last = np.searchsorted(self.ends, [begin, end], side="right")
        cuts = [0, *(self.ends[first:last] - begin).tolist(), len(data)]
        for left, right in pairwise(cuts):
            if right > left:
                yield data[left:right].decode("utf-8", errors="ignore")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, as JSON values."""
        names = ("start", "stop", "first_document", "n_documents", "n_chars", "fingerprint")
        return {"file": self.path.name} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, folder: Path, description: dict[str, Any]) -> "TextRange":
        return cls(
            folder / description["file"],
            **{name: value for name, value in description.items() if name != "file"},
        )


def document_ends_path(path: Path) -> Path:
    return path.with_suffix(".ends")


class TextStoreWriter:
    """Writes documents one after the other, and takes one back when reading it fails half-way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=BLOCK_BYTES)
        self._ends = document_ends_path(path).open("wb")
        self.n_bytes = 0
        self.n_chars = 0
        self.n_documents = 0

    def __enter__(self) -> "TextStoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._ends.close()

    def add(self, pieces: Iterable[str]) -> bool:
        """Adds one document; False when it holds no text. Raises BadDocumentError as its pieces do, without a
        trace of it left."""
        n_bytes, n_chars = self.n_bytes, self.n_chars
        try:
            for piece in pieces:
                n_bytes += self._file.write(piece.encode("utf-8"))
                n_chars += len(piece)
        except BadDocumentError:
            self._file.flush()
            self._file.truncate(self.n_bytes)
            self._file.seek(self.n_bytes)
            raise
        if n_bytes == self.n_bytes:
            return False
        self.n_bytes, self.n_chars, self.n_documents = n_bytes, n_chars, self.n_documents + 1
        self._ends.write(self.n_bytes.to_bytes(8, "little"))
        return True

    def text(self) -> TextRange:
        """All that was written, after the files are closed."""
        return TextRange(self._path, 0, self.n_bytes, 0, self.n_documents, self.n_chars)


def next_character(path: Path, at: int, end: int) -> int:
    """The first place from `at` on where a character starts, or `end`."""
    with path.open("rb") as file:
        file.seek(at)
        starts = np.flatnonzero(_is_character_start(file.read(min(4, end - at))))
    return at + int(starts[0]) if len(starts) else end


def with_fingerprint(text: TextRange) -> TextRange:
    """The text with a hash of its bytes and its documents' ends."""
    digest = hashlib.blake2b(digest_size=16)
    for block in _blocks(text.path, text.start, text.stop):
        digest.update(block)
    digest.update((text.ends - text.start).astype("<i8").tobytes())
    return replace(text, fingerprint=digest.hexdigest())


def count_chars(path: Path, start: int, stop: int) -> int:
    """Characters in a range of UTF-8 bytes: every byte that does not continue one starts one."""
    return sum(int(np.count_nonzero(_is_character_start(block))) for block in _blocks(path, start, stop))


def character_offset(text: TextRange, n: int) -> int:
    at, seen = text.start, 0
    for block in _blocks(text.path, text.start, text.stop):
        starts = np.flatnonzero(_is_character_start(block))
        if seen + len(starts) > n:
            return at + int(starts[n - seen])
        at, seen = at + len(block), seen + len(starts)
    return text.stop


def _is_character_start(block: bytes) -> npt.NDArray[np.bool_]:
    starts: npt.NDArray[np.bool_] = (np.frombuffer(block, dtype=np.uint8) & 0xC0) != 0x80
    return starts


def _blocks(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        for at in range(start, stop, BLOCK_BYTES):
            yield file.read(min(BLOCK_BYTES, stop - at))
