"""One run, one process: a lock on the run's folder, which the system releases when its process dies."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

from newleaf.errors import InputError

NAME = ".lock"


class FolderLock:
    """`acquire` it before anything in the folder is written, `release` it at the end.

    `note` warns the user where the file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: IO[str] | None = None
        self.note: str | None = None

    def acquire(self) -> None:
        """Raises InputError when another process holds the folder. Acquiring it twice is fine."""
        while self.file is None and self.note is None:
            file = _open(self.folder / NAME)
            try:
                acquired = lock_descriptor(file.fileno(), blocking=False)
            except OSError as error:
                file.close()
                self.note = (
                    f"{self.folder}: this file system has no locks ({error.strerror}), so start no "
                    f"second run here."
                )
                return
            if not acquired:
                with file:
                    raise InputError(
                        f"{self.folder}: {_holder(file)} is training into this folder; wait, or choose "
                        f"another"
                    )
            if _still_there(file, self.folder / NAME):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                self.file = file
            else:
                file.close()  # its last holder removed it just before: there may be a new one

    def release(self) -> None:
        """Release the lock and leave no file behind."""
        if self.file is None:
            return
        # Windows removes no file that is open, and a lock file in the way does no harm
        with contextlib.suppress(OSError):
            (self.folder / NAME).unlink()
        self.file.close()
        self.file = None


class NoLock(FolderLock):
    """For a process whose folder another one of the same run has locked."""

    def acquire(self) -> None: ...


def _open(path: Path) -> IO[str]:
    try:
        return path.open("a+", encoding="utf-8", errors="replace")
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, where a run has its lock; remove it") from None


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        number = file.read(20).strip()
    except OSError:  # Windows lets nobody read what is locked
        number = ""
    return f"another process ({number})" if number else "another process"


def _still_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
