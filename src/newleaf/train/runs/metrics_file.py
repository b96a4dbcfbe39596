"""metrics.jsonl: a line for each step, validation and sample, which survives a full disk and goes back to
where a checkpoint was."""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from newleaf.format_amounts import counted
from newleaf.storage.atomic_write import write_atomically


class MetricsFile:
    """The file at `path`. Lines that cannot be written (a full disk) wait in memory and are tried again with
    the next.

    `crc32` is the checksum of what the file holds, by which a checkpoint knows it again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""
        self.crc32 = 0

    def start(self) -> None:
        """An empty file."""
        self.path.write_bytes(b"")
        self.waiting, self.crc32 = b"", 0

    def append(self, values: dict[str, Any]) -> None:
        self.waiting += json.dumps(values, ensure_ascii=False).encode() + b"\n"
        with suppress(OSError):
            self._write()

    def flush(self) -> tuple[int, int]:
        """Bring every line to the disk; returns the file's bytes and their checksum.

        Raises OSError when it cannot.
        """
        self._write()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END), self.crc32

    def lines(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.path)

    def rewind(self, size: int | None, step: int, crc32: int | None = None) -> str | None:
        """Forget what was written after the file had `size` bytes of this checksum.

        With None, after the lines of `step`.

        A file that does not begin with those bytes is damaged: it is kept beside, its whole lines up to
        `step` stay, and what to tell people is returned.
        """
        found = self.path.read_bytes() if self.path.exists() else b""
        kept, told = found[:size], None
        if size is None or len(found) < size or crc32 not in (None, zlib.crc32(kept)):
            kept, lost = _intact_lines(found, step)
            if size is not None or lost:
                aside = _save_damaged_copy(self.path, found)
                told = (
                    f"Warning: {self.path} is damaged; it is kept as {aside.name}, and its lines of "
                    f"{_count_steps(kept)} of {step} steps stay."
                )
        with write_atomically(self.path) as fresh:
            fresh.write_bytes(kept)
        self.waiting, self.crc32 = b"", zlib.crc32(kept)
        return told

    def _write(self) -> None:
        """All that waits, or nothing of it."""
        if not self.waiting:
            return
        with self.path.open("ab", buffering=0) as file:
            begin = file.tell()
            try:
                if file.write(self.waiting) != len(self.waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                file.truncate(begin)
                raise
        self.crc32 = zlib.crc32(self.waiting, self.crc32)
        self.waiting = b""


def read_lines(metrics: Path, strict: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that was cut short is left out, and a file that is not
    there is empty.

    Damaged lines are passed over with a warning; with `strict` the first raises ValueError.
    """
    damaged = 0
    if metrics.exists():
        with metrics.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    continue
                line = parse_line(raw)
                if line is not None:
                    yield line
                elif strict:
                    raise ValueError(f"line {number} is damaged")
                damaged += line is None
    if damaged:
        logging.getLogger("newleaf").warning(f"{metrics}: {counted(damaged, 'damaged line')} passed over")


def parse_line(raw: bytes) -> dict[str, Any] | None:
    """One line; None when it is not what a run writes."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _intact_lines(found: bytes, step: int) -> tuple[bytes, bool]:
    """The whole lines up to `step`, and whether there are others that cannot be read."""
    lines = [(raw, parse_line(raw)) for raw in found.splitlines(keepends=True) if raw.endswith(b"\n")]
    kept = b"".join(raw for raw, line in lines if line is not None and line["step"] <= step)
    return kept, any(line is None for _, line in lines)


def _count_steps(lines: bytes) -> int:
    return sum(b'"factor"' in line for line in lines.splitlines())


def _save_damaged_copy(path: Path, content: bytes) -> Path:
    """The content under a name beside `path` that is free."""
    names = (
        path.with_name(f"{path.stem}.damaged{number}{path.suffix}")
        for number in ("", *(f"-{n}" for n in range(2, 1000)))
    )
    aside = next(name for name in names if not name.exists())
    aside.write_bytes(content)
    return aside
