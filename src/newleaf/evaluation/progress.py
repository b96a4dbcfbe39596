"""How far an evaluation is, with the time left, for whoever shows it."""

from __future__ import annotations

import time

from newleaf.train.display.monitor import Monitor
from newleaf.train.display.throughput import format_duration


class Shown:
    """Passes on what is done to a monitor, with an estimate from the speed since the task began."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self._task, self._begun, self._first = "", 0.0, 0

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if task != self._task:
            self._task, self._begun, self._first = task, now, done
        fresh = done - self._first
        left = (now - self._begun) / fresh * (total - done) if fresh else None
        text = f"{task}  {done:,} of {total:,}" + (
            f"  {format_duration(left)} left" if left is not None and done < total else ""
        )
        self.monitor.stage(text, done, total)
