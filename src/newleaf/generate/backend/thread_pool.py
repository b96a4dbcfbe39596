"""The threads that run a program together: they spin from step to step, and sleep when told to, when no token
has come for long, or when fewer of them are faster."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from typing import Any

import numpy as np

from newleaf.generate.backend.lowered_program import Array, CannotLower, Program
from newleaf.generate.backend.thread_count import ThreadCount
from newleaf.generate.kernels.layout import MAX_THREADS, State
from newleaf.kernels.instruction_set import why_unsupported

SPIN_LIMIT = 30_000  # looks for a next token before falling wakeup: about a millisecond


class ThreadPool:
    """Runs a program. `state` is the table that all threads share; whoever calls `run` is thread 0."""

    def __init__(self, program: Program) -> None:
        interpreter = _kernels()
        self.program = program
        self.state: Array = np.zeros(State.TOKENS + 3 * program.max_rows, dtype=np.int64)
        self.state[State.SELF] = self.state.ctypes.data
        self.state[State.THREADS], self.state[State.MAX_ROWS] = program.threads, program.max_rows
        self.state[State.YIELD] = _yield_address()
        self._run = interpreter.run
        self.thread_count = ThreadCount(min(program.threads, MAX_THREADS - 1))
        self._wakeup = threading.Condition()
        self._tables = program.steps, program.matrices, program.buffers, self.state
        threads = [
            threading.Thread(
                target=_run_worker,
                args=(self._tables, program, number, self._wakeup),
                daemon=True,
                name=f"newleaf-{number}",
            )
            for number in range(1, program.threads)
        ]
        weakref.finalize(self, _stop, self.state, self._wakeup, threads)
        for thread in threads:
            thread.start()

    def run(self) -> None:
        """The program once, for the rows that stand in the state, by as many threads as are fastest."""
        work = int(self.state[State.ROWS]), int(self.state[State.LOGIT_ROWS])
        size = self.thread_count.choose(work)
        with self._wakeup:
            self.state[State.SLEEP], self.state[State.THREADS] = 0, size
            self.state[State.RUNS] += 1
            if size > 1:
                self._wakeup.notify_all()
        begin = time.perf_counter()
        self._run(*self._tables, 0, self.state[State.RUNS] - 1, SPIN_LIMIT)
        self.thread_count.record(size, work, time.perf_counter() - begin)

    def sleep(self) -> None:
        """Let the threads sleep until the next run, in place of waiting for it awake: another program needs
        the cores."""
        self.state[State.SLEEP] = 1


def _kernels() -> Any:
    """The compiled code. Raises CannotLower where it cannot be."""
    reason = why_unsupported()
    if reason is not None:
        raise CannotLower(reason)
    from newleaf.generate.kernels import interpreter

    return interpreter


def _run_worker(
    tables: tuple[Array, Array, Array, Array], program: Program, number: int, wakeup: threading.Condition
) -> None:
    """A thread's life. `run_program` keeps the memory alive that the tables point to."""
    from newleaf.generate.kernels.interpreter import run

    state, seen = tables[-1], 0
    while True:
        seen = run(*tables, number, seen, SPIN_LIMIT)
        if seen < 0:
            return
        with wakeup:
            while not ((state[State.RUNS] > seen and number < state[State.THREADS]) or state[State.STOP]):
                wakeup.wait()
        if state[State.STOP]:
            return


def _stop(state: Array, wakeup: threading.Condition, threads: list[threading.Thread]) -> None:
    """When the thread pool is forgotten, or Python ends: a thread that its end meets inside compiled code
    takes the process down."""
    with wakeup:
        state[State.STOP] = 1
        wakeup.notify_all()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _yield_address() -> int:
    """Address of the C library's sched_yield, or 0 where there is none."""
    if os.name == "nt":
        return 0
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0
