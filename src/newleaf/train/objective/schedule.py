"""The learning rate over a run: warm up, hold, decay to zero.

By steps, by the clock, or as an earlier run had it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ScheduleShape:
    """Warm-up / stable / decay (Hu et al. 2024): fractions of the run, linear from `start` of the peak to all
    of it, and from there to `final` of it."""

    warmup: float = 0.02
    decay: float = 0.5
    final: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup", "decay", "final", "start"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be between 0 and 1, not {getattr(self, name)!r}")
        if self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup: warmup {self.warmup} and decay {self.decay} together must not exceed 1"
            )

    def factor(self, progress: float) -> float:
        """The share of the peak rate at `progress` in [0, 1]."""
        if progress < self.warmup:
            return self.start + (1 - self.start) * progress / self.warmup
        if progress > 1 - self.decay:
            return self.final + (1 - self.final) * (1 - min(progress, 1.0)) / self.decay
        return 1.0


class Schedule(Protocol):
    """What the loop asks before each step, counted from 0."""

    def progress(self, step: int) -> float:
        """The share of the run that is done; the run ends at 1."""

    def factor(self, step: int) -> float:
        """The share of the peak learning rate for this step."""


@dataclass(frozen=True)
class StepSchedule:
    """Ends after a known number of `steps`, of which the `first` ones belong to an earlier schedule."""

    steps: int
    shape: ScheduleShape
    first: int = 0

    def progress(self, step: int) -> float:
        return max(step - self.first, 0) / (self.steps - self.first)

    def factor(self, step: int) -> float:
        # The middle of the step, so that neither the first nor the last is a step of rate zero.
        return self.shape.factor(max(step - self.first + 0.5, 0.0) / (self.steps - self.first))


@dataclass(frozen=True)
class ExtendedSchedule:
    """The schedule `after`, from its first step on.

    Up to there the one `before`, where it can be asked again.
    """

    before: Schedule | None
    after: StepSchedule

    def progress(self, step: int) -> float:
        return self._of(step).progress(step)

    def factor(self, step: int) -> float:
        return self._of(step).factor(step)

    def _of(self, step: int) -> Schedule:
        return self.before if self.before is not None and step < self.after.first else self.after


class ClockSchedule:
    """Ends when `seconds` have passed, `already` of them before this was made; `reserve` is kept for what
    comes after the last step.

    `step_seconds` is what a step takes: an estimate before the first one, then what the last one took.
    """

    def __init__(
        self,
        seconds: float,
        shape: ScheduleShape,
        already: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shape = shape
        self.clock = clock
        self.reserve = 0.0
        self.step_seconds = 0.0
        self._begun: tuple[int, float] | None = None  # the step under way, and when it began
        self.start = clock()
        self.length = max(seconds - already, 0.0)
        self.behind = 0.0  # progress made before a resume

    def resume(self, spent: float, progress: float) -> None:
        """Go on at `progress` with `spent` seconds less."""
        self.length, self.behind = max(self.length - spent, 0.0), progress

    def remaining(self) -> float:
        """Seconds until the run's end, the reserve included."""
        return self.start + self.length - self.clock()

    def progress(self, step: int) -> float:
        now = self.clock()
        if self._begun is not None and step > self._begun[0]:
            self.step_seconds, self._begun = now - self._begun[1], None
        return self.behind + (1 - self.behind) * self._share(now - self.start)

    def factor(self, step: int) -> float:
        # The middle of the step, as far as can be told, so that none is taken at a rate of zero, not even the
        # only one of a short run.
        begin = self.progress(step)
        self._begun = step, self.clock()
        if begin >= 1:
            return self.shape.factor(0.5)
        width = (1 - self.behind) * self._share(self.step_seconds)
        return self.shape.factor(max(begin + min(width, 1 - begin) / 2, min(1e-3, self.shape.warmup)))

    def _share(self, seconds: float) -> float:
        """Of the time for training."""
        usable = self.length - self.reserve
        return min(seconds / usable, 1.0) if usable > 0 else 1.0


@dataclass(frozen=True)
class ReplaySchedule:
    """Takes the very steps that an earlier run recorded, whatever the clock says.

    That run validated `windows` windows after each of the steps `checks`, and `closing` gives the rows
    of its closing figures and of its report; zeros are all there are.
    """

    factors: Sequence[float]
    checks: frozenset[int] = frozenset()
    windows: int = 0
    closing: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> ReplaySchedule:
        """From the lines of a metrics.jsonl. Raises ValueError when they hold no steps or no validation."""
        found = list(lines)
        factors = [line["factor"] for line in found if "factor" in line]
        checks = [line for line in found if "val_windows" in line]
        if not factors or not checks:
            raise ValueError("holds no steps to take again")
        closing = next(
            ((line["closing_windows"], line["report_rows"]) for line in found if "closing_windows" in line),
            (0, 0),
        )
        return cls(factors, frozenset(line["step"] for line in checks), checks[-1]["val_windows"], closing)

    def progress(self, step: int) -> float:
        return step / len(self.factors)

    def factor(self, step: int) -> float:
        return self.factors[step]
