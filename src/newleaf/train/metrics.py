"""metrics.jsonl: a line for each step, validation and sample, which survives a full disk and goes back to where a checkpoint was."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from newleaf.storage.files import write_atomically


class Metrics:
    """The file at `path`. Lines that cannot be written (a full disk) wait in memory and are tried again with the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting = b""

    def start(self) -> None:
        """An empty file."""
        self.path.write_bytes(b"")
        self.waiting = b""

    def append(self, values: dict[str, Any]) -> None:
        self.waiting += json.dumps(values, ensure_ascii=False).encode() + b"\n"
        with suppress(OSError):
            self._write()

    def flush(self) -> int:
        """Bring every line to the disk; returns the file's bytes. Raises OSError when it cannot."""
        self._write()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def lines(self) -> Iterator[dict[str, Any]]:
        return read_lines(self.path)

    def rewind(self, size: int | None, step: int) -> None:
        """Forget what was written after the file had `size` bytes; should it be shorter, or None, its whole lines up to `step` stay."""
        self.waiting = b""
        found = self.path.read_bytes() if self.path.exists() else b""
        kept = found[:size]
        if size is None or len(found) < size:
            lines = found.splitlines(keepends=True)
            kept = b"".join(line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step)
        with write_atomically(self.path) as aside:
            aside.write_bytes(kept)

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
        self.waiting = b""


def read_lines(metrics: Path) -> Iterator[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that was cut short is left out, and a file that is not there is empty."""
    if metrics.exists():
        with metrics.open(encoding="utf-8", errors="replace") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))
