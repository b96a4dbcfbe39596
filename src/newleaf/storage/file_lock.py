"""Locks between processes, which the system releases when a process dies, whatever ended it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from newleaf.storage.private_files import PRIVATE_FILE_MODE

RETRY_SECONDS = 0.02  # between two tries


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock of this file, which is created and stays; waits for whoever has it.

    Where the file system has no locks, nobody is kept out.
    """
    with open_lock_file(path) as file:
        with contextlib.suppress(OSError):
            lock_descriptor(file.fileno(), poll_interval=RETRY_SECONDS)
        yield


def open_lock_file(path: Path) -> IO[str]:
    """The file of a lock, which only its user may read."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE_FILE_MODE), "r+", encoding="utf-8")


def try_lock(file: IO[str]) -> bool:
    """Whether the lock is ours, until the file is closed: False where another process has it."""
    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # a file system without locks
        return True
