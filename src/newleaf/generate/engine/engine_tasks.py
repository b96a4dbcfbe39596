"""Engine tasks: work with the network beside generation, in slices between the engine's steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]  # yields after each slice of work; returns the result

GENERATION_TIME_FACTOR = 3.0  # generation runs this many times as long as a slice before the next one
MAX_ACTIVE_TASKS = 4  # tasks that take turns; each may hold a KV cache


class TaskCancelledError(Exception):
    """The task was cancelled."""


class EngineTask(Generic[Result]):
    """One task. `future` has its result or its error."""

    def __init__(self, steps: Steps[Result], wake: Callable[[], None]) -> None:
        self.future: Future[Result] = Future()
        self._steps, self._wake, self._cancelled = steps, wake, False

    def cancel(self) -> None:
        """Stop before the next slice; the future gets a TaskCancelledError. Any thread may call this."""
        self._cancelled = True
        self._wake()

    def advance(self) -> bool:
        """Run a slice of work; whether there is more."""
        try:
            if self._cancelled:
                self._steps.close()
                raise TaskCancelledError
            next(self._steps)
        except StopIteration as end:
            self.future.set_result(end.value)
        except BaseException as error:  # for whoever waits on the future
            self.future.set_exception(error)
        return not self.future.done()

    def fail(self, problem: BaseException) -> None:
        self._steps.close()
        self.future.set_exception(problem)


class EngineTasks:
    """The tasks of an engine, of which a few take turns.

    During generation a slice runs only after `GENERATION_TIME_FACTOR` times its duration, so generation has
    priority and tasks still finish.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._waiting: deque[EngineTask[Any]] = deque()
        self._clock, self._owed = clock, 0.0

    def add(self, engine_task: EngineTask[Any]) -> None:
        self._waiting.append(engine_task)

    def __len__(self) -> int:
        return len(self._waiting)

    def due(self, generating: bool) -> bool:
        """Whether it is time for a slice of work."""
        return bool(self._waiting) and (not generating or self._owed <= 0)

    def advance(self) -> None:
        """Run a slice of the task whose turn it is."""
        engine_task, began = self._waiting[0], self._clock()
        if engine_task.advance():
            if len(self._waiting) > 1:  # behind the others that take turns
                self._waiting.popleft()
                self._waiting.insert(min(MAX_ACTIVE_TASKS - 1, len(self._waiting)), engine_task)
        else:
            self._waiting.popleft()
        self._owed = GENERATION_TIME_FACTOR * (self._clock() - began)

    def record_generation(self, seconds: float) -> None:
        """Generation took so many seconds."""
        self._owed -= seconds

    def fail(self, problem: BaseException) -> None:
        """End all tasks with an error."""
        while self._waiting:
            self._waiting.popleft().fail(problem)
