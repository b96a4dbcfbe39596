"""What a pretraining run is made of, as sections of frozen options. A recipe in YAML has the same names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from newleaf.data.data_config import DataConfig
from newleaf.errors import InputError
from newleaf.recipe import seconds
from newleaf.text.train_tokenizer import TokenizerConfig
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.schedule import ScheduleShape
from newleaf.train.signals import signal_numbers
from newleaf.train.size_from_budget import parse_size

TrackerName = Literal["tensorboard", "wandb", "trackio"]


MAX_BATCH_SIZE = 1 << 20  # windows
LENGTHS = ("time", "steps", "tokens", "epochs")


@dataclass(frozen=True)
class Extension:
    """A longer length that a run was given when it was resumed: from `step` on, which it reached after
    `before` seconds. It warms up from the share `start` of the peak rate. `steps`, `tokens` and `epochs` are
    those of the whole run, `time` is more time."""

    step: int
    start: float = 0.0
    before: float = 0.0
    time: str | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class TrainConfig:
    """How long and in what micro-batches.

    At most one of `time`, `steps`, `tokens` and `epochs`; `time` is the whole command's wall clock.

    A zero stands for what the dial chooses.
    """

    time: str | None = None
    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    extended: tuple[Extension, ...] = ()  # by --resume; not an option of its own
    batch_size: int = 0  # windows in each step
    micro_batch_size: int = 0  # windows in memory at once; gradients of a step's micro-batches are added up
    schedule: ScheduleShape = field(default_factory=ScheduleShape)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # steps in a row whose loss or gradient is not finite before the last checkpoint is restored
    max_skipped: int = 5
    patience: int = 0  # validations without a better one before the run ends; 0 never ends it early
    keep_checkpoints: int = 2  # under state/, besides the best weights in model/
    # by which a scheduler announces that it will take the machine; SIGTERM always does
    preempt_signal: str | None = "SIGUSR1"
    # what model/ holds at the end: the best weights by validation, or those of the last step
    keep: Literal["best", "last"] = "best"
    eval_every: int = 0  # steps between validations; by the clock, a tenth of the run
    # windows of each validation on the way; the last one reads the whole validation text, if time allows
    eval_windows: int = 256
    prompts: tuple[str, ...] = ("",)  # continued at each validation
    sample: dict[str, Any] = field(default_factory=dict)  # how: the options of `newleaf generate`
    seed: int = 1
    threads: int | None = None
    device: str | None = None
    # how torchrun's processes hold the network: whole in each, or a share in each
    parallel: Literal["ddp", "fsdp"] = "ddp"
    checkpoint_activations: bool = False  # blocks are computed again on the way back instead of kept
    track: tuple[TrackerName, ...] = ()  # who is told beside metrics.jsonl
    replay: str | None = None  # a metrics.jsonl whose steps and rates are taken again

    def __post_init__(self) -> None:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[1]}: a run has one length, and {given[0]} is given too")
        if self.time is not None:
            try:
                seconds(self.time)
            except ValueError as error:
                raise ValueError(f"time: {error}") from None
        for name in ("steps", "tokens", "epochs", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: must be above 0, not {value!r}")
        try:
            signal_numbers(self.preempt_signal)
        except ValueError as error:
            raise ValueError(f"preempt_signal: {error}") from None
        for name in ("batch_size", "micro_batch_size", "eval_every", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be at least 0, not {getattr(self, name)!r}")
        for name in ("eval_windows", "max_skipped", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, not {getattr(self, name)!r}")
        if self.batch_size > MAX_BATCH_SIZE:
            raise ValueError(
                f"batch_size: {self.batch_size} windows in a step are too many; at most {MAX_BATCH_SIZE:,} "
                f"are taken"
            )
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} does not divide batch_size = {self.batch_size}"
            )


def with_batch_size(train: TrainConfig, size: int) -> TrainConfig:
    """The same with a batch size that was open.

    Raises InputError where the micro-batch does not divide it.
    """
    try:
        return replace(train, batch_size=size)
    except ValueError as error:
        raise InputError(f"train.{error}") from None


@dataclass(frozen=True)
class PretrainConfig:
    """A whole recipe: sources, a size for the dial to begin from (6x384 or 2m weights; None lets it choose),
    and the sections data, tokenizer, model (fields of GPTConfig that are fixed), optimizer, train."""

    source: tuple[str, ...] = ()
    size: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.size is not None:
            parse_size(self.size)
            if fixed := {"n_layer", "n_embd"} & self.model.keys():
                raise ValueError(
                    f"size: {self.size} chooses layers and width, and model.{min(fixed)} is given too"
                )
