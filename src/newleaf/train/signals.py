"""Asking a run to stop: Ctrl-C, SIGTERM and a scheduler's pre-emption signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, TypeVar

from newleaf.errors import Stopped

T = TypeVar("T")


class Interrupt:
    """A context that hears SIGINT, SIGTERM and `preempt` (a signal's name, such as "SIGUSR1"; None for none).

    At first they raise Stopped at once with `nothing_yet` for its text: there is nothing to save. After
    `gently(say)` the first sets `requested` and is told to `say`; later ones change nothing, as schedulers
    send several, but a second Ctrl-C raises KeyboardInterrupt. Outside the main thread, where Python takes no
    signals, it does nothing.
    """

    def __init__(self, nothing_yet: str = "stopped", preempt: str | None = "SIGUSR1") -> None:
        self.requested = False
        self.nothing_yet = nothing_yet
        self.say: Callable[[str], None] | None = None
        self.ctrl_c = 0
        self.numbers = signal_numbers(preempt)
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle) for number in self.numbers}
        return self

    def gently(self, say: Callable[[str], None]) -> None:
        """From now on a signal only asks."""
        self.say = say

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.say is None:
            if self.requested and number != signal.SIGINT:
                return  # it is on its way out, and cleaning up
            self.requested = True
            raise Stopped(self.nothing_yet)
        self.ctrl_c += number == signal.SIGINT
        if self.ctrl_c > 1:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            again = (
                "; Ctrl-C again stops at once"
                if number == signal.SIGINT
                else f" ({signal.Signals(number).name})"
            )
            # the signal may have come in the middle of another print, which takes no second one
            with suppress(RuntimeError):
                self.say(f"Stopping after this step{again}.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def signal_numbers(preempt: str | None) -> list[signal.Signals]:
    """The signals to hear. Raises ValueError for a `preempt` that this system does not have, but for SIGUSR1,
    the default, on Windows."""
    found = [signal.SIGINT, signal.SIGTERM]
    if preempt is not None:
        number = getattr(signal, preempt, None)
        if isinstance(number, signal.Signals) and preempt not in ("SIGKILL", "SIGSTOP"):
            found += [number] if number not in found else []
        elif preempt != "SIGUSR1":
            raise ValueError(f"{preempt!r} is not a signal that can be heard here, such as SIGUSR1")
    return found


def interruptible(work: Callable[[], T]) -> T:
    """`work()` in a thread of its own while this one waits, so that a signal is heard although a library
    computes without Python."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)  # left behind when the process ends
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
    if errors:
        raise errors[0]
    return results[0]
