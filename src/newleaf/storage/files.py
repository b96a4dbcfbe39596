"""Files that appear whole or not at all: written aside in the same directory, flushed to disk, then renamed."""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends well, that file becomes `path`, otherwise it is removed."""
    temporary = _sibling(path)
    try:
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
    """Yields a new directory beside `target`; when the block ends well it takes the place of `target`, otherwise it is removed.

    A `target` for which `unless(target)` holds at that moment is kept and the new one dropped: another process was first.
    """
    temporary = _sibling(target)
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


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with the line ends it has."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON as people read it: indented, Unicode as it is, one line end after it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file in place. A full disk is an OSError here as elsewhere, and not an error of the format's."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    except SafetensorError as error:
        if "os error 28" in str(error) or "os error 112" in str(error):  # ENOSPC, and what Windows calls it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise


def _move_into_place(new: Path, target: Path, unless: Callable[[Path], bool] | None) -> None:
    """A directory cannot be renamed over a full one, so the old one steps aside first and comes back if the new one fails."""
    old = _sibling(target)
    for _ in range(3):  # two processes may do this at once: whoever loses the race looks again
        if unless is not None and unless(target):
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


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


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
