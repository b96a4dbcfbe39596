"""The sections `preference` and `distil` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PreferenceConfig:
    """Pairs of answers. `beta` is DPO's β, IPO's τ or ORPO's λ."""

    method: Literal["dpo", "ipo", "orpo"] = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0  # DPO: the share of pairs assumed to be labelled the wrong way round
    nll_weight: float = 0.0  # DPO and IPO: of the chosen answers' own loss, added to the other

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta: must be above 0, not {self.beta!r}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing: must be at least 0 and below 0.5, not {self.label_smoothing!r}"
            )
        if self.label_smoothing and self.method != "dpo":
            raise ValueError(f"label_smoothing: is DPO's, and the method is {self.method}")
        if self.nll_weight < 0 or (self.nll_weight and self.method == "orpo"):
            raise ValueError(
                "nll_weight: must be at least 0, and ORPO has the chosen answers' loss in any case"
            )


@dataclass(frozen=True)
class DistilConfig:
    """Distillation: share · temperature² · KL(teacher ‖ student) + (1 − share) · next-token loss."""

    on: Literal["chat", "text"] = "chat"  # the data: conversations, whose answers are learned, or documents
    teacher: str | None = None  # a folder, run, GGUF file or Hub name with the same tokenizer
    temperature: float = 1.0
    share: float = 1.0
    top_k: int = 0  # of the teacher's likeliest tokens, computed once and stored; 0 runs it at each step

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: must be above 0, not {self.temperature!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share: must be above 0 and at most 1, not {self.share!r}")
        if self.top_k < 0:
            raise ValueError(f"top_k: must be at least 0, not {self.top_k!r}")
