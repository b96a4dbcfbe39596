"""Locks between processes, which the system lets go of when a process dies, whatever ended it."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from newleaf.storage.private_files import PRIVATE_FILE_MODE

BUSY_ERRNOS = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
RETRY_SECONDS = 0.02  # seconds between two tries


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock of this file, which is made and stays, while the block runs; waits for whoever has it.
    Where the file system has no locks, nobody is kept out."""
    with open_lock_file(path) as file:
        while not try_lock(file):
            time.sleep(RETRY_SECONDS)
        yield


def open_lock_file(path: Path) -> IO[str]:
    """The file of a lock, which only its user may read."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE_FILE_MODE), "r+", encoding="utf-8")


def try_lock(file: IO[str]) -> bool:
    """Whether the lock is ours, until the file is closed: False where another process has it."""
    try:
        lock(file)
    except OSError as error:
        return error.errno not in BUSY_ERRNOS
    return True


if sys.platform == "win32":
    import msvcrt

    def lock(file: IO[str]) -> None:
        """Raises OSError, with an error number of `BUSY_ERRNOS` where another process has it."""
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def lock(file: IO[str]) -> None:
        """Raises OSError, with an error number of `BUSY_ERRNOS` where another process has it."""
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
