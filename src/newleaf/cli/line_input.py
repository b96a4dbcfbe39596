"""Messages typed into a terminal: line editing and history where Python has readline, and several lines to a
message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

QUOTES = '"""'
REMEMBERED = 1000  # lines


def read_message(read: Callable[[str], str], prompt: str, more: str) -> str:
    """A message: one line, or several where each but the last ends in a backslash, or all between three
    quotes and three quotes.

    `read` shows a prompt and returns a line. Raises EOFError and KeyboardInterrupt as it does.
    """
    line = read(prompt)
    if line.lstrip().startswith(QUOTES):
        return _quoted(read, line.lstrip().removeprefix(QUOTES), more)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        line = read(more)
    return "\n".join([*lines, line])


def _quoted(read: Callable[[str], str], line: str, more: str) -> str:
    lines = []
    while not line.rstrip().endswith(QUOTES):
        lines.append(line)
        line = read(more)
    lines.append(line.rstrip().removesuffix(QUOTES))
    return "\n".join(lines).strip("\n")


@contextlib.contextmanager
def remembered_lines(file: Path) -> Iterator[ModuleType | None]:
    """Line editing with a history that is kept in `file`, readable by its owner only; None where Python has
    no readline."""
    try:
        import readline
    except ImportError:  # Windows
        yield None
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(REMEMBERED)
    try:
        yield readline
    finally:
        with contextlib.suppress(OSError):  # a history that cannot be kept is no reason to end badly
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)
