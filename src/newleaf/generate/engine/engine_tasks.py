"""Work with the network beside writing: in pieces, between the engine's rounds, for as long as somebody waits
for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]  # pauses after each piece of work; returns the result

GENERATION_TIME_FACTOR = 3.0  # how much longer than a piece texts are written before the next piece
MAX_ACTIVE_TASKS = 4  # engine tasks that take turns; each may hold keys and values of a text


class TaskCancelledError(Exception):
    """Nobody waits for the result any more."""


class EngineTask(Generic[Result]):
    """Work that was asked for. `future` has its result, or what went wrong."""

    def __init__(self, steps: Steps[Result], wake: Callable[[], None]) -> None:
        self.future: Future[Result] = Future()
        self._steps, self._wake, self._cancelled = steps, wake, False

    def cancel(self) -> None:
        """Stop before the next piece; the result is a CancelledErrandError. Any thread may call this, at any
        time."""
        self._cancelled = True
        self._wake()

    def advance(self) -> bool:
        """Do a piece of work; whether there is more."""
        try:
            if self._cancelled:
                self._steps.close()
                raise TaskCancelledError
            next(self._steps)
        except StopIteration as end:
            self.future.set_result(end.value)
        except BaseException as error:  # it is the asker's
            self.future.set_exception(error)
        return not self.future.done()

    def fail(self, problem: BaseException) -> None:
        self._steps.close()
        self.future.set_exception(problem)


class EngineTasks:
    """The engine tasks of an engine, of which a few take turns. While texts are written, a piece of work
    comes only after they had `MIN_PAUSE` times as long: writing goes first, and engine tasks come to their
    end all the same."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._waiting: deque[EngineTask[Any]] = deque()
        self._clock, self._owed = clock, 0.0

    def add(self, engine_task: EngineTask[Any]) -> None:
        self._waiting.append(engine_task)

    def __len__(self) -> int:
        return len(self._waiting)

    def due(self, writing: bool) -> bool:
        """Whether it is time for a piece of work."""
        return bool(self._waiting) and (not writing or self._owed <= 0)

    def advance(self) -> None:
        """A piece of work for the engine task whose turn it is."""
        engine_task, began = self._waiting[0], self._clock()
        if engine_task.advance():
            if len(self._waiting) > 1:  # behind the others that take turns; the rest waits
                self._waiting.popleft()
                self._waiting.insert(min(MAX_ACTIVE_TASKS - 1, len(self._waiting)), engine_task)
        else:
            self._waiting.popleft()
        self._owed = GENERATION_TIME_FACTOR * (self._clock() - began)

    def record_generation(self, seconds: float) -> None:
        """Texts were written for so long."""
        self._owed -= seconds

    def fail(self, problem: BaseException) -> None:
        """No more work is done."""
        while self._waiting:
            self._waiting.popleft().fail(problem)
