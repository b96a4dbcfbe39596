"""The test runner's process: holds the tests and reports whether they pass.

It sees nothing of the program but what its functions return, as plain data.
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
from .plain_data import UnsupportedValueError

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_REASON_CHARACTERS = 200
ENDED = "ended before its tests did"


class Report:
    """The one line of result for newleaf. The process exits once it is written, so the first one is final."""

    def __init__(self, result_pipe: int, seconds: float) -> None:
        self.result_pipe, self.seconds = result_pipe, seconds
        self.policies: list[str] = []
        self.unavailable: list[str] = []
        self.started = time.monotonic()

    def start_timer(self) -> None:
        """Start the time limit of program and tests.

        A few seconds later the supervisor kills what ignores this alarm.
        """
        self.started = time.monotonic()
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, lambda *_: self.timed_out())
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        else:
            import threading

            timer = threading.Timer(self.seconds, self.timed_out)
            timer.daemon = True
            timer.start()

    def timed_out(self) -> NoReturn:
        self.finish(False, f"took longer than {self.seconds:g} s")

    def passed(self) -> NoReturn:
        if time.monotonic() - self.started > self.seconds:
            self.timed_out()
        self.finish(True, "passed")

    def failed(self, reason: str) -> NoReturn:
        self.finish(False, reason)

    def finish(self, passed: bool, reason: str) -> NoReturn:
        reason = " ".join(reason.split())[:MAX_REASON_CHARACTERS]
        result = {
            "passed": passed,
            "reason": reason,
            "policies": self.policies,
            "unavailable": self.unavailable,
        }
        os.write(self.result_pipe, json.dumps(result).encode() + b"\n")
        os._exit(0)


def run(
    channel: Channel,
    result_pipe: int,
    seconds: float,
    request: dict[str, Any],
    policies: list[str],
    unavailable: list[str],
) -> NoReturn:
    """Send the program its source, run the tests against it, and report the result."""
    report = Report(result_pipe, seconds)
    ask = _remote_call(channel, report)
    try:
        # Received before a line of the program has run.
        _, program_policies, program_unavailable = channel.receive()
    except ClosedError:
        report.failed("the sandbox did not start: the program's process ended")
    report.policies = [policy for policy in policies if policy in program_policies]
    report.unavailable = sorted({*unavailable, *program_unavailable})
    report.start_timer()
    try:
        ask("load", request["program"], request["name"])
        tests = types.ModuleType("tests")
        sys.modules["tests"] = tests
        vars(tests).update({name: _proxy(name, ask) for name in request["functions"]})
        exec(_compiled(request["tests"], report), vars(tests))
    except BaseException as error:  # SystemExit too: the tests after it have not run
        report.failed("is not Python" if _is_syntax_error(error) else f"{type(error).__name__}: {error}")
    report.passed()


def _is_syntax_error(error: BaseException) -> bool:
    return type(error) is SyntaxError and error.args == ("is not Python",)


def _compiled(source: str, report: Report) -> types.CodeType:
    try:
        return compile(source, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        report.failed(f"the tests are not Python: {error}")


def _remote_call(channel: Channel, report: Report) -> Callable[..., Any]:
    """A function that sends a message and returns the program's answer, or raises what the program raised.

    Anything else (an unsupported value, a program that has ended) fails the tests at once. Raised as an
    exception, it could be caught by tests that expect one.
    """

    lock = _thread.allocate_lock()  # tests may call from several threads

    def ask(*message: object) -> Any:
        with lock:
            return exchange(*message)

    def exchange(*message: object) -> Any:
        try:
            channel.send(*message)
        except UnsupportedValueError as error:
            report.failed(f"the tests call the program with {error}")
        except ClosedError:
            report.failed(ENDED)
        try:
            match channel.receive():
                case ("returned", value):
                    return value
                case ("raised", str(name), list(arguments)):
                    raised = _error(name, arguments)
                case ("refused", str(reason)):
                    report.failed(reason)
                case _:
                    report.failed("gave no answer of the form agreed on")
        except UnsupportedValueError as error:
            report.failed(f"gave an answer with {error}")
        except ClosedError:
            report.failed(ENDED)
        raise raised

    return ask


def _proxy(name: str, ask: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in for one of the program's functions, for the tests.

    Arguments are copied: what the program does to them is not seen here.
    """

    def function(*arguments: object, **named: object) -> Any:
        return ask("call", name, arguments, named)

    function.__name__ = function.__qualname__ = name
    return function


def _error(name: str, arguments: list[Any]) -> BaseException:
    kind = getattr(builtins, name, None)
    for base in kind.__mro__ if isinstance(kind, type) and issubclass(kind, BaseException) else (Exception,):
        with contextlib.suppress(Exception):  # some constructors want arguments of certain types
            made = base(*arguments)
            if isinstance(made, BaseException):
                return made
    return Exception(*arguments)
