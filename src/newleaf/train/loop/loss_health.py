"""What the losses say of a run: steps that were not finite and so not taken, runs of those, and spikes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

RECENT = 64  # losses that a spike is measured against
MIN_LOSSES = 16  # of them, before anything is called a spike
MAX_DEVIATIONS = 6.0  # robust standard deviations above the median: one loss in a billion, were they normal
MIN_RISE = 0.05  # and this share of the median, since the losses of an easy text hardly vary
RATE_AFTER_RESTORE = 0.5  # of the rate, after a checkpoint was restored
COUNTERS = ("skipped", "in_a_row", "spikes", "restored", "rate_scale")


@dataclass
class LossHealth:
    """Counts what went wrong.

    A spike is a loss above the median of the last RECENT by more than MAX_DEVIATIONS · 1.4826 · MAD (the
    median absolute deviation, as robust as a spread gets) and by more than MIN_RISE of that median.
    """

    skipped: int = 0
    in_a_row: int = 0  # skipped steps up to now
    spikes: int = 0
    restored: int = 0  # how often a checkpoint was restored for a run of skipped steps
    rate_scale: float = 1.0  # of every rate since then
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def update(self, loss: float, skipped: bool) -> bool:
        """Take in a step; returns whether its loss is a spike."""
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.skipped += skipped
        if not math.isfinite(loss):
            return False
        spike = self._is_spike(loss)
        self.spikes += spike
        self.recent.append(loss)
        return spike

    def lower_rate(self, losses: Iterable[float]) -> None:
        """A checkpoint was restored, up to which these losses are recorded: go on at a lower rate."""
        self.recent.clear()
        self.recent.extend(losses)
        self.restored += 1
        self.in_a_row = 0
        self.rate_scale *= RATE_AFTER_RESTORE

    def _is_spike(self, loss: float) -> bool:
        if len(self.recent) < MIN_LOSSES:
            return False
        middle = statistics.median(self.recent)
        spread = 1.4826 * statistics.median(abs(value - middle) for value in self.recent)
        return loss > middle + max(MAX_DEVIATIONS * spread, MIN_RISE * abs(middle))

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint; the recent losses stand in the metrics."""
        return {name: getattr(self, name) for name in COUNTERS}

    def load_state_dict(self, counters: Mapping[str, Any], losses: Iterable[float]) -> None:
        """Take a checkpoint's counters, and the losses recorded up to it."""
        for name in COUNTERS:
            setattr(self, name, counters[name])
        self.recent.clear()
        self.recent.extend(losses)
