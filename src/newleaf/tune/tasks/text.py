"""Going on with training on documents, with the model's own tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from newleaf.data.corpus import Corpus, prepare_text
from newleaf.data.data_config import DataConfig
from newleaf.data.token_shards import tokenize
from newleaf.format_amounts import counted
from newleaf.recipe import merge
from newleaf.storage.model_folder import save_folder
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.pretraining.prepare_pretraining import (
    PreparedRun,
    describe_skipped,
    describe_text_size,
    limit_data,
    timed_budget,
)
from newleaf.train.pretraining.text_objective import TextObjective, text_record
from newleaf.train.size_from_budget import data_budget
from newleaf.tune.base_model import Base, check_length
from newleaf.tune.hyperparameters import TaskDefaults
from newleaf.tune.pretraining_record import notes
from newleaf.tune.run_recipe import absolute_recipe
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import USUAL, Task
from newleaf.version import VERSION


@dataclass(frozen=True)
class WindowConfig:
    """How text is cut: `length` tokens a window, 0 for the whole context up to 1,024."""

    length: int = 0

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"length: must be at least 0, not {self.length!r}")


@dataclass(frozen=True)
class TextConfig(TuneConfig):
    """The recipe: `data` as in pretraining, `text` for the windows."""

    data: DataConfig = field(default_factory=DataConfig)
    text: WindowConfig = field(default_factory=WindowConfig)


class TuneTextObjective(TextObjective):
    """Pretraining's objective from a network that exists."""

    validates_before_training = True

    def __init__(self, prepared: PreparedRun, base: Base) -> None:
        super().__init__(prepared)
        self.base = base

    @property
    def optimizer(self) -> OptimizerConfig:
        found: OptimizerConfig = self.config.optimizer.whole()
        return found

    @property
    def row_count(self) -> int:
        return len(self.prepared.train.tokens) // self.prepared.window

    @property
    def row_length(self) -> float:
        return self.prepared.window

    def build(self) -> nn.Module:
        network = self.base.network()
        network.recompute = self.train.checkpoint_activations
        return network

    def save(self, path: Path, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
        base = self.base
        said = {"version": VERSION, **notes(base.origin)}
        save_folder(path, base.config, weights, base.tokenizer, said, defaults=base.defaults)

    def recipe(self) -> dict[str, Any]:
        return absolute_recipe(self.config)

    def record(self) -> dict[str, Any]:
        return text_record(self.prepared)


def open_text(config: TextConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
    """Read and encode the documents. Raises InputError for what cannot be read."""
    length = check_length(config.text.length, base, "text.length")
    corpus = prepare_text(config.source, config.data, on_progress=monitor.stage)
    for sentence in describe_skipped(corpus.report):
        monitor.say(sentence)
    config = _in_time(config, base, corpus, ranks)
    monitor.say(
        f"Text: {describe_text_size(corpus.train, config.data.train_bytes)} to learn, "
        f"{describe_text_size(corpus.validation, config.data.validation_bytes)} "
        f"held out, in windows of {length} tokens. {config.train.precision} on "
        f"{counted(config.train.threads or 0, 'thread')}."
    )
    parts = zip((corpus.train, corpus.validation), config.data.max_bytes, strict=True)
    train, validation = (
        tokenize(text, base.tokenizer, on_progress=monitor.stage, max_bytes=most) for text, most in parts
    )
    fingerprints = {
        "text": corpus.fingerprint,
        "tokenizer": base.tokenizer.fingerprint,
        "base": base.fingerprint,
    }
    ready = dataclasses.replace(config, text=WindowConfig(length))
    return TuneTextObjective(
        PreparedRun(ready, base.config, base.tokenizer, train, validation, fingerprints, length), base
    )


def _in_time(config: TextConfig, base: Base, corpus: Corpus, ranks: Ranks) -> TextConfig:
    """Of a large text no more than the clock leaves time to encode and learn.

    All of it where there are several processes, which would measure different speeds.
    """
    if config.train.time is None:
        return config
    if ranks.size > 1:
        return dataclasses.replace(config, data=config.data.without_byte_limits())
    found = data_budget(
        timed_budget(config.train), base.config.n_layer, base.config.n_embd, base.config.vocab_size
    )
    return dataclasses.replace(config, data=limit_data(config.data, corpus, found))


TASK = Task(
    TextConfig,
    open_text,
    merge(USUAL, {"train": {"eval_windows": 256, "prompts": ("",)}}),
    TaskDefaults(4, batch_tokens=2048, share=0.4),
)
