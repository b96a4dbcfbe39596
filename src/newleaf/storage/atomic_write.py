"""Files that appear whole or not at all: written aside in the same directory, flushed to disk, then
renamed."""

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from newleaf.storage.checksums import checksum_metadata

REPLACED_SUFFIX = ".old.tmp"
PRIVATE_FILE_MODE = 0o600  # a file's mode where only its user may read it
PRIVATE_FOLDER_MODE = 0o700


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


def make_private_folder(folder: Path) -> None:
    """The folder, which only its user may look into, with those above it where they are missing."""
    folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER_MODE)
    if os.name == "posix":  # it may have been there with another mode
        with suppress(PermissionError):  # another user's, in which our files are private all the same
            folder.chmod(PRIVATE_FOLDER_MODE)


def open_private_file(path: Path) -> BinaryIO:
    """A file to add bytes to, which only its user may read."""
    flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, PRIVATE_FILE_MODE), "ab")


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file in place, with a checksum of each tensor in its metadata. What the system
    refuses is an OSError here as elsewhere, and not an error of the format's."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    path.touch()
    # what this user's files have; safetensors' own is one that only the owner reads
    mode = path.stat().st_mode & 0o7777
    try:
        metadata = {"format": "pt"} | checksum_metadata(whole)
        save_file(whole, path, metadata=metadata)
        _sort_metadata(path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        # Windows' own number for a full disk
        number = errno.ENOSPC if found[1] == "112" and os.name == "nt" else int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None


def _sort_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """The library writes metadata in an order that changes from file to file; the same tensors are to make
    the same bytes."""
    wanted, turned = (
        json.dumps(dict(pairs), separators=(",", ":")).encode()
        for pairs in (list(metadata.items()), list(metadata.items())[::-1])
    )
    with path.open("rb+") as file:
        start = 8 + len(b'{"__metadata__":')  # behind the header's length
        file.seek(start)
        if file.read(len(turned)) == turned:
            file.seek(start)
            file.write(wanted)


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
