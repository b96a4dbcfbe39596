"""Files that appear whole or not at all: written aside in the same directory, flushed to disk, then
renamed."""

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from newleaf.storage.private_files import PRIVATE_FILE_MODE

REPLACED_SUFFIX = ".old.tmp"


@contextmanager
def write_atomically(path: Path, private: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well, that file becomes `path`, otherwise it
    is removed.

    A `private` file is its user's alone (mode 0600) from its first byte on.
    """
    temporary = _temporary_sibling(path)
    try:
        if private:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE_MODE))
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def replace_directory(target: Path, unless: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yields a new directory beside `target`; when the block ends well it takes the place of `target`,
    otherwise it is removed.

    A `target` for which `unless(target)` holds at that moment is kept and the new one dropped: another
    process was first.
    """
    temporary = _temporary_sibling(target)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _flush(Path(folder) / name)
            _flush_directory(Path(folder))
        _move_into_place(temporary, target, unless)
        _flush_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str, private: bool = False) -> None:
    """Writes UTF-8 text with the line ends it has."""
    with write_atomically(path, private) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as people read it: indented, Unicode as it is, one line end after it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_digest(path: Path) -> str:
    """A hash of the file's bytes, to find damage with: BLAKE2b of 16 bytes, about a second for a gigabyte."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def remove_directory(path: Path) -> None:
    """Removes a directory if it is there. Its name goes first, so that a kill on the way leaves no half of
    it."""
    if path.exists():
        gone = _temporary_sibling(path)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process left half done in `folder`, which nobody else may be writing to; a
    directory that stepped aside for one that never came takes its place again."""
    for leftover in folder.glob(".*.tmp"):
        target = leftover.with_name(leftover.name[1:].rsplit(".", 3)[0])
        if leftover.name.endswith(REPLACED_SUFFIX) and not target.exists():
            leftover.rename(target)
        elif leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _move_into_place(new: Path, target: Path, unless: Callable[[Path], bool] | None) -> None:
    """A directory cannot be renamed over a full one. Where the system can swap two, `new` then holds the old
    one, for its maker to remove; elsewhere the old one steps aside first and comes back if the new one
    fails."""
    old = _temporary_sibling(target, REPLACED_SUFFIX)
    for _ in range(3):  # two processes may do this at once: whoever loses the race looks again
        if unless is not None and unless(target):
            return
        if target.exists() and _exchange_directories(new, target):
            return
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists() and not target.exists():
                old.rename(target)
                raise
            if not target.exists():
                raise
        else:
            shutil.rmtree(old, ignore_errors=True)
            return
        shutil.rmtree(old, ignore_errors=True)
    raise FileExistsError(f"{target} is being replaced by another process")


def _exchange_directories(one: Path, other: Path) -> bool:
    """Swap two directories in one step, so that there is no moment without either; False where the system has
    no such call."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _temporary_sibling(path: Path, ending: str = ".tmp") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{ending}")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    """The rename itself is only safe once the directory is on disk; Windows has no such call."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
