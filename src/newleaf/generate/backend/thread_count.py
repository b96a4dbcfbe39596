"""How many threads run a program.

Where other programs use the same cores, threads that wait for each other at every step are slower than one
thread: whichever loses its core holds all others up. So fewer threads are tried, and used as long as they are
faster. What is computed does not depend on their number.
"""

from __future__ import annotations

from typing import NamedTuple

SMOOTHING = 4  # a new time has the weight 1/4
WARMUP_RUNS = 3  # runs before a time is compared
MAX_LOSS = 6.0  # in runs with fewer threads: what more threads may lose before fewer are tried
# Runs until more threads are tried again; twice as many after each failure.
MIN_RETRY_RUNS, MAX_RETRY_RUNS = 32, 1024
ABORT_FACTOR = 4.0  # times the time with fewer threads: a trial ends at once

Workload = tuple[int, int]  # rows of a run, and how many of them give logits


class Timing(NamedTuple):
    """What runs of one kind took."""

    seconds: float  # smoothed
    runs: int


class ThreadCount:
    """The number of threads for each run of a program, from what the runs before took."""

    def __init__(self, threads: int) -> None:
        self.max_threads = self.size = threads
        self.trial = 0  # the size that is being tried; 0 is none
        self._seconds: dict[tuple[int, Workload], Timing] = {}
        self._loss, self._trial_runs = 0.0, 0
        self._retry_runs = self._runs_left = MIN_RETRY_RUNS

    def choose(self, work: Workload) -> int:
        """How many take part in the next run."""
        return self.trial if self.trial and (self.size, work) in self._seconds else self.size

    def record(self, size: int, work: Workload, seconds: float) -> None:
        """A run of so many threads took so long."""
        if size != self.size:
            self._end_trial(size, work, seconds)
            return
        self._measure(size, work, seconds)
        if size > 1 and not self.trial:
            self._compare(work, seconds)
        if size < self.max_threads and not self.trial:
            self._runs_left -= 1
            if self._runs_left <= 0:
                self._try(min(self.max_threads, 2 * size))

    def _compare(self, work: Workload, seconds: float) -> None:
        """Try fewer where they have not been measured, or would have been faster for some time."""
        smaller = self.size // 2
        if (smaller, work) not in self._seconds:
            if self._seconds[self.size, work].runs >= WARMUP_RUNS:
                self._try(smaller)
            return
        other = self._seconds[smaller, work].seconds
        self._loss = max(0.0, self._loss + seconds / other - 1)
        if self._loss > MAX_LOSS:
            self._try(smaller)

    def _end_trial(self, size: int, work: Workload, seconds: float) -> None:
        """What a trial came to. A larger team's first run is not counted: its threads have to wake up."""
        mine = self._seconds[self.size, work].seconds
        self._trial_runs += 1
        if size > self.size and self._trial_runs == 1 and seconds < ABORT_FACTOR * mine:
            return
        self._seconds[size, work] = Timing(seconds, 1)
        if seconds < mine:
            if size > self.size:
                self._retry_runs = MIN_RETRY_RUNS
            self.size = size
        elif size > self.size:
            self._retry_runs = min(2 * self._retry_runs, MAX_RETRY_RUNS)
        self.trial, self._runs_left = 0, self._retry_runs

    def _try(self, size: int) -> None:
        self.trial, self._trial_runs, self._loss = size, 0, 0.0

    def _measure(self, size: int, work: Workload, seconds: float) -> None:
        before, count = self._seconds.get((size, work), Timing(seconds, 0))
        # The first of all reads weights into memory, and may wait for the compiler.
        now = min(before, seconds) if count < WARMUP_RUNS else before + (seconds - before) / SMOOTHING
        self._seconds[size, work] = Timing(now, count + 1)
