"""The recipe of the tasks that end in a label: how long texts may be, the loss, what counts as better."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from newleaf.recipe import merge
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.labels.label_rows import LabelledConfig
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import USUAL

MeasureName = Literal["accuracy", "macro_f1", "micro_f1", "matthews", "loss"]


@dataclass(frozen=True)
class LabelConfig:
    """`length` is the most tokens of a sequence, 0 for the context's own, up to 1,024.

    Longer texts are cut at their end, or refused.

    `language_weight` is that of the language model's own loss beside the labels' (Radford et al. 2018,
    section 3.2: 0.5). `class_weights` "balanced" weighs each label by the inverse of how often it occurs.
    `measure` chooses the best checkpoint; None takes accuracy, and with several labels a text macro_f1.
    """

    length: int = 0
    too_long: Literal["cut", "refuse"] = "cut"
    language_weight: float = 0.5
    class_weights: Literal["none", "balanced"] = "none"
    measure: MeasureName | None = None
    # measure the commonest label, and a bag of words where scikit-learn is installed, on the same rows
    baselines: bool = True

    def __post_init__(self) -> None:
        if self.length < 0 or 0 < self.length < 4:
            raise ValueError(f"length: must be 0 or at least 4, not {self.length!r}")
        if self.language_weight < 0:
            raise ValueError(f"language_weight: must be at least 0, not {self.language_weight!r}")


@dataclass(frozen=True)
class LabelTaskConfig(TuneConfig):
    """The recipe of classify, pair, similarity and choice."""

    data: LabelledConfig = field(default_factory=LabelledConfig)
    label: LabelConfig = field(default_factory=LabelConfig)


# GPT-1's own: 32 rows, three epochs, rates warmed up over 0.2 % of the steps and let down linearly.
GPT1: dict[str, Any] = merge(USUAL, {"train": {"schedule": {"warmup": 0.002, "decay": 0.998}}})
ROWS = TaskDefaults(32)
