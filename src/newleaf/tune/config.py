"""What every recipe of fine-tuning says: the task, the model to begin from, the data, and the sections base, optimizer and train."""

from __future__ import annotations

from dataclasses import dataclass, field

from newleaf.train.config import TrainConfig
from newleaf.train.optimizer import OptimizerConfig


@dataclass(frozen=True)
class BaseConfig:
    """How the model is opened before it learns."""

    fresh: bool = False  # draw its weights anew: the same network without what it had learned, to see what that was worth
    dropout: float | None = None  # of embeddings, attention and residuals; None keeps the model's own

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be at least 0 and below 1, not {self.dropout!r}")


@dataclass(frozen=True)
class TuneConfig:
    """What all tasks have. A task's own configuration adds its sections, among them `data`."""

    task: str = ""
    model: str = ""  # a folder, a run, a GGUF file, owner/name of the Hub
    source: tuple[str, ...] = ()
    base: BaseConfig = field(default_factory=BaseConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
