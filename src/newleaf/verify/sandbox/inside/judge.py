"""The judge's process: holds the tests and the verdict.

Of the program it sees what its functions answer, as plain data.
"""

from __future__ import annotations

import _thread
import builtins
import contextlib
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable

from .channel import Channel, ClosedError
from .plain import NotPlainError

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any, NoReturn

REASON = 200  # characters


class Verdict:
    """The one line for newleaf. Whatever has been said is final: the process ends with it."""

    def __init__(self, out: int, seconds: float) -> None:
        self.out, self.seconds = out, seconds
        self.walls: list[str] = []
        self.missing: list[str] = []
        self.begun = time.monotonic()

    def start_clock(self) -> None:
        """The program's and the tests' time begins.

        What gets around the alarm is ended by the guardian a little later.
        """
        self.begun = time.monotonic()
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self.late())
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        else:
            import threading

            timer = threading.Timer(self.seconds, self.late)
            timer.daemon = True
            timer.start()

    def late(self) -> NoReturn:
        self.say(False, f"took longer than {self.seconds:g} s")

    def passed(self) -> NoReturn:
        if time.monotonic() - self.begun > self.seconds:
            self.late()
        self.say(True, "passed")

    def say(self, passed: bool, reason: str) -> NoReturn:
        reason = " ".join(reason.split())[:REASON]
        line = json.dumps({"passed": passed, "reason": reason, "walls": self.walls, "missing": self.missing})
        os.write(self.out, line.encode() + b"\n")
        os._exit(0)


def run(
    channel: Channel, out: int, seconds: float, request: dict[str, Any], walls: list[str], missing: list[str]
) -> NoReturn:
    """Send the program its source, run the tests against it, and say the verdict."""
    verdict = Verdict(out, seconds)
    ask = _asker(channel, verdict)
    try:
        _, theirs, lacking = channel.receive()  # before a line of the program has run
    except ClosedError:
        verdict.say(False, "the sandbox did not start: the program's process ended")
    verdict.walls = [wall for wall in walls if wall in theirs]
    verdict.missing = sorted({*missing, *lacking})
    verdict.start_clock()
    try:
        ask("load", request["program"], request["name"])
        tests = types.ModuleType("tests")
        sys.modules["tests"] = tests
        vars(tests).update({name: _proxy(name, ask) for name in request["functions"]})
        exec(_compiled(request["tests"], verdict), vars(tests))
    except BaseException as error:  # SystemExit too: the tests after it have not run
        verdict.say(False, "is not Python" if _not_python(error) else f"{type(error).__name__}: {error}")
    verdict.passed()


def _not_python(error: BaseException) -> bool:
    return type(error) is SyntaxError and error.args == ("is not Python",)


def _compiled(source: str, verdict: Verdict) -> types.CodeType:
    try:
        return compile(source, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        verdict.say(False, f"the tests are not Python: {error}")


def _asker(channel: Channel, verdict: Verdict) -> Callable[..., Any]:
    """Sends a message and gives the program's answer, or raises what the program raised.

    What is no answer (a value that does not cross, a program that has ended) ends the judging here and now:
    as an exception it could be caught by tests that expect one.
    """

    turn = _thread.allocate_lock()  # tests may call from several threads

    def ask(*message: object) -> Any:
        with turn:
            return exchange(*message)

    def exchange(*message: object) -> Any:
        try:
            channel.send(*message)
        except NotPlainError as error:
            verdict.say(False, f"the tests call the program with {error}")
        except ClosedError:
            verdict.say(False, "ended before its tests did")
        try:
            match channel.receive():
                case ("returned", value):
                    return value
                case ("raised", str(name), list(arguments)):
                    error_raised = _error(name, arguments)
                case ("refused", str(reason)):
                    verdict.say(False, reason)
                case _:
                    verdict.say(False, "gave no answer of the form agreed on")
        except NotPlainError as error:
            verdict.say(False, f"gave an answer with {error}")
        except ClosedError:
            verdict.say(False, "ended before its tests did")
        raise error_raised

    return ask


def _proxy(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the program's, for the tests.

    Arguments are copied: what the program does to them is not seen here.
    """

    def function(*arguments: object, **named: object) -> Any:
        return ask("call", name, arguments, named)

    function.__name__ = function.__qualname__ = name
    return function


def _error(name: str, arguments: list[Any]) -> BaseException:
    kind = getattr(builtins, name, None)
    for base in kind.__mro__ if isinstance(kind, type) and issubclass(kind, BaseException) else (Exception,):
        with contextlib.suppress(Exception):  # some want arguments of certain kinds
            made = base(*arguments)
            if isinstance(made, BaseException):
                return made
    return Exception(*arguments)
