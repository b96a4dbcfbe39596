"""The optimizer's options: kind, peak rates, momenta, decay, clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates are peaks; the schedule multiplies them. Zero clips nothing or decays nothing."""

    kind: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 3e-3  # AdamW's: embeddings, head, norms, biases; with kind "adamw", everything
    matrix_learning_rate: float = 0.02  # Muon's, before the factor sqrt(max(1, rows / columns))
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    weight_decay: float = 0.1  # on matrices and embeddings, never on norms and biases
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("muon", "adamw"):
            raise ValueError(f"optimizer.kind: {self.kind!r} is not one of muon, adamw")
        for name in ("learning_rate", "matrix_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name}: must be above 0, not {getattr(self, name)!r}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"optimizer.{name}: must be at least 0 and below 1, not {getattr(self, name)!r}"
                )
        for name in ("weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name}: must be at least 0, not {getattr(self, name)!r}")
