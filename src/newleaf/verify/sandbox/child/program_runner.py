"""The program's process: runs the program's source, then answers calls of its functions.

It holds neither the tests nor the result.
"""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable

from .channel import Channel, ClosedError
from .plain_data import UnsupportedValueError

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any

MAX_ERROR_CHARACTERS = 1000


class NullStream(io.StringIO):
    """Discards what is printed, and has nothing to read."""

    def write(self, text: str) -> int:
        return len(text)


def run(channel: Channel, policies: list[str], unavailable: list[str]) -> None:
    """Report the policies, receive the program, run it, and answer calls until the channel is closed."""
    channel.send("hello", policies, unavailable)
    with contextlib.suppress(ClosedError):
        _, source, name = channel.receive()
        module = types.ModuleType(name)
        sys.modules[name] = module  # where dataclasses and others look for the module of a class
        sys.stdout, sys.stderr, sys.stdin = NullStream(), NullStream(), NullStream()
        _answer(channel, _load, source, module)
        while True:
            _, function, arguments, named = channel.receive()
            _answer(channel, _call, module, function, arguments, named)


def _load(source: str, module: types.ModuleType) -> None:
    try:
        code = compile(source, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, OverflowError):
        raise SyntaxError("is not Python") from None
    exec(code, module.__dict__)


def _call(module: types.ModuleType, function: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if function not in vars(module):
        raise NameError(f"name {function!r} is not defined")
    return vars(module)[function](*arguments, **named)


def _answer(channel: Channel, act: Callable[..., Any], *arguments: Any) -> None:
    try:
        try:
            channel.send("returned", act(*arguments))
        except UnsupportedValueError as error:
            channel.send("refused", f"returned {error}")
    except ClosedError:
        raise
    except BaseException as error:
        channel.send("raised", *_serialize_error(error))


def _serialize_error(error: BaseException) -> tuple[str, list[object]]:
    """An error's nearest built-in type and its arguments: the test runner has no types of the program."""
    kind = next(base for base in type(error).__mro__ if base.__module__ == "builtins")
    plain = [each if type(each) in (str, int, float, bool, type(None)) else str(each) for each in error.args]
    cut = [each[:MAX_ERROR_CHARACTERS] if isinstance(each, str) else each for each in plain[:5]]
    return kind.__name__, cut
