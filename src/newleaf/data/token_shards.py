"""Text to token shards: ids in a memory-mapped file, each document behind a separator."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.data.corpus_cache import cache_key, cached_directory, default_cache_directory
from newleaf.data.documents import Progress
from newleaf.data.text_chunks import chunks
from newleaf.data.text_store import TextRange
from newleaf.text.tokenizer import Tokenizer

VERSION = 1  # of the files and of where chunks are cut
BATCH_CHARS = 2 * 2**20  # an encoding takes about a hundred bytes a token while it lives
BATCH_TEXTS = 16384


@dataclass(frozen=True)
class Shard:
    """A token stream: [BOS] document [BOS] document …

    `tokens` is uint16 or uint32 [N], memory-mapped; `document_starts` int64 [documents] says where each
    separator stands; `n_bytes` is the UTF-8 text's size. `bos_id` is the separator, `eos_id` and `pad_id` are
    what windows of one document end and fill up with. BOS occurs nowhere else: text that spells it is plain
    text.
    """

    tokens: npt.NDArray[np.unsignedinteger[Any]]
    document_starts: npt.NDArray[np.int64]
    n_bytes: int
    n_documents: int
    fingerprint: str
    bos_id: int
    eos_id: int
    pad_id: int

    @property
    def n_tokens(self) -> int:
        """Ids in the stream, separators included."""
        return len(self.tokens)


def tokenize(
    text: TextRange,
    tokenizer: Tokenizer,
    cache: Path | None = None,
    on_progress: Progress | None = None,
    max_bytes: int | None = None,
) -> Shard:
    """The text's tokens, from the cache when this tokenizer has met this text before; of a text of more than
    `max_bytes`, those of pieces spread evenly over it, each as a document.

    `on_progress("tokenizing", done, total)` counts bytes. Raises InputError when the tokenizer has no token
    to set documents apart, or when the disk is full.
    """
    bos = tokenizer.separator_id
    width = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    part = [max_bytes] if max_bytes is not None and max_bytes < text.n_bytes else []
    fingerprint = cache_key(VERSION, text.fingerprint, tokenizer.fingerprint, tokenizer.separator_id, *part)
    folder = (cache or default_cache_directory()) / "tokens" / fingerprint

    def build(building: Path) -> dict[str, Any]:
        pieces = ((piece, True) for piece in text.sample(part[0])) if part else text.pieces()
        starts, n_bytes = _write_tokens(
            building / "tokens.bin", pieces, min([text.n_bytes, *part]), tokenizer, width, on_progress
        )
        np.asarray(starts, dtype="<i8").tofile(building / "starts.bin")
        return {"n_bytes": n_bytes, "n_documents": len(starts)}

    meta, _ = cached_directory(folder, build)
    eos = tokenizer.eos_id if tokenizer.eos_id is not None else bos
    return Shard(
        tokens=np.asarray(np.memmap(folder / "tokens.bin", dtype=width, mode="r")),
        document_starts=np.fromfile(folder / "starts.bin", dtype="<i8").astype(np.int64),
        n_bytes=meta["n_bytes"],
        n_documents=meta["n_documents"],
        fingerprint=fingerprint,
        bos_id=bos,
        eos_id=eos,
        pad_id=tokenizer.pad_id if tokenizer.pad_id is not None else eos,
    )


def token_byte_lengths(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """UTF-8 bytes of each token [V], 0 for special tokens: summed over the targets, the bytes that a loss is
    spread over."""
    return np.array([len(data) for data in tokenizer.bytes_of_tokens], dtype=np.int64)


def _write_tokens(
    path: Path,
    pieces: Iterator[tuple[str, bool]],
    total: int,
    tokenizer: Tokenizer,
    width: str,
    on_progress: Progress | None,
) -> "tuple[array[int], int]":
    """Writes the stream; returns where each document's separator stands, and how many bytes of text there
    were; about `total`."""
    starts = array("q")
    written = done = 0
    separator = np.array([tokenizer.separator_id], dtype=width).tobytes()
    with path.open("wb", buffering=2**20) as file:
        for batch in _batches(_document_chunks(pieces)):
            for ids, (_, starts_document) in zip(
                tokenizer.encode_batch([chunk for chunk, _ in batch]), batch, strict=True
            ):
                if starts_document:
                    starts.append(written)
                    file.write(separator)
                    written += 1
                file.write(np.array(ids, dtype=width).tobytes())
                written += len(ids)
            done += sum(len(chunk.encode()) for chunk, _ in batch)
            if on_progress is not None:
                on_progress("tokenizing", done, total)
    return starts, done


def _document_chunks(pieces: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Chunks of each document, and whether one starts it."""
    following = next(pieces, None)
    while following is not None:
        document = _Document(pieces, following[0])
        first = True
        for chunk in chunks(document):
            yield chunk, first
            first = False
        following = document.following


class _Document(Iterable[str]):
    """The pieces of one document; the first piece of the next one, which tells that this one is over, waits
    in `following`."""

    def __init__(self, pieces: Iterator[tuple[str, bool]], first: str) -> None:
        self._pieces = pieces
        self._first = first
        self.following: tuple[str, bool] | None = None

    def __iter__(self) -> Iterator[str]:
        yield self._first
        for piece, starts in self._pieces:
            if starts:
                self.following = (piece, starts)
                return
            yield piece


def _batches(parts: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch: list[tuple[str, bool]] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(part[0])
        if size >= BATCH_CHARS or len(batch) >= BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
