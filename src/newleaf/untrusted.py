"""Opens files from others: regular files only, and JSON and YAML bounded in size and depth."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from newleaf.errors import InputError
from newleaf.panics import filter_panic_messages

MAX_BYTES = 64 * 2**20  # of a configuration; published ones have thousands
MAX_TOKENIZER_BYTES = 512 * 2**20  # the largest published tokenizer.json has 35 MB
MAX_YAML_BYTES = 2 * 2**20  # of YAML, which is read a hundred times more slowly
MAX_DEPTH = 100  # levels of JSON or YAML
MAX_INTEGER_BITS = 4096  # bits of a whole number
FILE_TYPES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path, most: int | None = None) -> None:
    """Check that a path is a regular file of at most `most` bytes.

    Raises InputError, naming the path, for what is missing, too large, or not a regular file: reading a
    pipe or a device may never end.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error_reason(error)}") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path}: is {FILE_TYPES.get(stat.S_IFMT(found.st_mode), 'no regular file')} and not a regular "
            f"file"
        )
    if most is not None and found.st_size > most:
        raise InputError(
            f"{path}: has {found.st_size:,} bytes, and newleaf reads at most {most:,} of such a file"
        )


@contextmanager
def open_regular(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """The file, open for reading. Raises InputError as `check_regular` does."""
    check_regular(path, most)
    try:
        # Not to wait for a writer, should the path have become a pipe since.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise InputError(f"{path}: {error_reason(error)}") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path}: is no regular file")
        yield file


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """The UTF-8 text of a regular file. Raises InputError, naming it, when it cannot be read."""
    try:
        with open_regular(path, most) as file:
            # Not `most`: Python reserves as many bytes as are asked for.
            return file.read(min(most, os.fstat(file.fileno()).st_size) + 1).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: {error_reason(error)}") from None


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """The JSON value in a regular file. Raises InputError, naming it, for invalid, large or deep JSON."""
    try:
        value = json.loads(read_text(path, most))
    except RecursionError:
        raise InputError(f"{path}: nests more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise InputError(f"{path}: {json_error_text(error)}") from None
    return _bounded(path, value)


def json_error_text(error: ValueError) -> str:
    """What is wrong with a JSON text.

    For a number with very many digits, Python's own message is advice for programmers.
    """
    if isinstance(error, json.JSONDecodeError) or not str(error).startswith("Exceeds the limit"):
        return f"not valid JSON ({_first_line(error)})"
    return f"holds a whole number of more than {sys.get_int_max_str_digits():,} digits"


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a regular file. Raises InputError as `read_json` does, and for other values."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


def parse_yaml(path: Path, text: str) -> Any:
    """The YAML value of a text that was read from `path`.

    Raises InputError, naming the file and if known the line, for invalid, large or deep YAML.
    """
    import yaml

    if len(text) > MAX_YAML_BYTES:
        raise InputError(
            f"{path}: has {len(text):,} characters, and newleaf reads at most {MAX_YAML_BYTES:,} of YAML"
        )
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise InputError(f"{path}: nests more than {MAX_DEPTH} levels deep") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError(
            f"{where}: not valid YAML ({getattr(error, 'problem', None) or _first_line(error)})"
        ) from None
    except (ValueError, OverflowError) as error:  # dates that no calendar has, numbers without end
        raise InputError(f"{path}: not valid YAML ({_first_line(error)})") from None
    return _bounded(path, value)


def error_reason(error: Exception) -> str:
    """An operating system's error, as the end of a sentence."""
    said = getattr(error, "strerror", None) or str(error)
    return str(said)[:1].lower() + str(said)[1:]


@contextmanager
def native_errors_as_input_errors(what: str) -> Iterator[None]:
    """Around calls of a native library on untrusted data: raise its errors as InputError.

    The error begins with `what`. Panics of Rust code are raised so too.
    """
    try:
        with filter_panic_messages():
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} ({_first_line(error)})") from error
    except BaseException as error:
        # PyO3's panics derive from BaseException, so that nobody catches them by accident.
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what} ({_first_line(error)})") from None


def _bounded(path: Path, value: Any) -> Any:
    """The value, unless it is nested so deep that a later walk through it would fail."""
    level, depth = {id(value): value}, 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InputError(f"{path}: nests more than {MAX_DEPTH} levels deep")
        if any(_is_endless(inner) for outer in level.values() for inner in _leaves(outer)):
            raise InputError(f"{path}: holds a whole number of more than {MAX_INTEGER_BITS:,} bits")
        # Each object once in a level: YAML aliases can refer to one object a million times.
        level = {id(inner): inner for outer in level.values() for inner in _inside(outer)}
    return value


def _inside(value: Any) -> list[Any]:
    """The lists and objects directly inside a value."""
    found = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in found if isinstance(inner, dict | list)]


def _leaves(value: Any) -> list[Any]:
    return (
        [*value, *value.values()]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else [value]
    )


def _is_endless(value: Any) -> bool:
    """Whether this is an integer that Python would refuse to print."""
    return type(value) is int and value.bit_length() > MAX_INTEGER_BITS


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
