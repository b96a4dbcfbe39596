"""What every recipe of fine-tuning says: the task, the model to begin from, the data, and the sections base,
optimizer and train."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from newleaf.adapters.lora_config import AdapterConfig
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig


@dataclass(frozen=True)
class BaseConfig:
    """How the model is opened before it learns."""

    # draw its weights anew: the same network without what it had learned, to see what that was worth
    fresh: bool = False
    dropout: float | None = None  # of embeddings, attention and residuals; None keeps the model's own

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be at least 0 and below 1, not {self.dropout!r}")


@dataclass(frozen=True)
class LoraConfig(AdapterConfig):
    """An adapter, and in which number format the frozen base is kept; None is the run's precision."""

    weights: Literal["fp32", "bf16", "int8", "int4"] | None = None


@dataclass(frozen=True)
class TuneOptimizerConfig:
    """As in pretraining, but that the dial of tuning chooses what is None."""

    kind: Literal["muon", "adamw"] | None = None
    learning_rate: float | None = None
    matrix_learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float | None = None
    momentum: float = 0.95
    weight_decay: float | None = None
    clip: float = 1.0

    def __post_init__(self) -> None:
        self.whole()

    def whole(self) -> OptimizerConfig:
        """The section as the optimizer takes it, with pretraining's values for what is open.

        Raises ValueError naming the field.
        """
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return OptimizerConfig(**{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class TuneConfig:
    """What all tasks have. A task's own configuration adds its sections, among them `data`."""

    task: str = ""
    model: str = ""  # a folder, a run, a GGUF file, owner/name of the Hub
    source: tuple[str, ...] = ()
    base: BaseConfig = field(default_factory=BaseConfig)
    lora: LoraConfig | None = None  # train an adapter and leave the weights as they are
    optimizer: TuneOptimizerConfig = field(default_factory=TuneOptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
