"""One training step, as the loop reports it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One step, done: loss (nats per token, where it is of text), gradient norm before clipping, the share of
    the peak rate it took."""

    number: int  # from 1
    loss: float
    norm: float
    factor: float
    tokens: int  # all so far
    seconds: float  # of training so far
    progress: float
    terms: Mapping[str, float] = field(default_factory=dict)  # what the loss is made of, each as a mean

    @property
    def skipped(self) -> bool:
        """Whether loss or gradients were not finite, so that weights and moments stayed as they were."""
        return not (math.isfinite(self.loss) and math.isfinite(self.norm))
