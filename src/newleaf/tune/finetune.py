"""Fine-tuning as a kind of run: recipe to task, base and course."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.train import run
from newleaf.train.course import Course
from newleaf.train.monitor import Monitor
from newleaf.train.prepare import settled
from newleaf.train.ranks import Ranks
from newleaf.train.recipe import build, merge
from newleaf.train.run_folder import RunFolder
from newleaf.tune.base import open_base
from newleaf.tune.config import TuneConfig
from newleaf.tune.labels.config import LabelTaskConfig
from newleaf.tune.lora import DEFAULTS, with_adapter
from newleaf.tune.task import Task, task_named

LENGTHS = ("time", "steps", "tokens", "epochs", "replay")


def read_config(values: Mapping[str, Any]) -> TuneConfig:
    """A recipe's configuration, with its task's defaults under it. Raises InputError naming the key."""
    if not values.get("task"):
        raise InputError("task: missing; say what is to be learned, such as --task classify")
    task = task_named(str(values["task"]))
    if values.get("lora") is not None:
        return build(task.config, merge(task.defaults, DEFAULTS, values))
    return build(task.config, merge(task.defaults, values))


def finetune(config: TuneConfig, out: str | Path, monitor: Monitor, started: float, overwrite: bool = False) -> RunFolder:
    """Tune `config.model` on `config.source` into the run folder `out`; see `run.begin`."""
    return run.begin(TUNING, config, out, monitor, started, overwrite)


def checked(config: TuneConfig, monitor: Monitor) -> TuneConfig:
    """The configuration with a length, checked for what needs neither model nor data."""
    if not config.model:
        raise InputError("no model: name the folder, run, GGUF file or Hub model to begin from")
    if not config.source:
        raise InputError("no data: name a file to learn from")
    if config.train.parallel == "fsdp":
        raise InputError("train.parallel: fsdp shards networks that are pretrained; fine-tuning takes ddp")
    if config.lora is not None and config.base.fresh:
        raise InputError("base.fresh: draws the weights anew, and an adapter needs weights that have learnt; leave one of them out")
    if not any(getattr(config.train, name) for name in LENGTHS):
        epochs = task_named(config.task).epochs
        monitor.say(f"No length given: taking --epochs {epochs:g}.")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    return config


def open_course(config: TuneConfig, monitor: Monitor, ranks: Ranks) -> Course:
    """The course of a recipe: base and data, opened and checked. Raises InputError."""
    task: Task = task_named(config.task)
    # Measured by one process: two measurements may differ.
    precision = ranks.first(lambda: {"precision": settled(config.train).precision})["precision"]

    def opened() -> Course:
        ready = dataclasses.replace(config, train=settled(dataclasses.replace(config.train, precision=precision)))
        base = open_base(ready)
        if base.head is not None and not issubclass(task.config, LabelTaskConfig):
            raise InputError(
                f"{config.model}: gives labels and has no language model's head; --task {config.task} begins from a language model"
            )
        return with_adapter(task.open(ready, base, monitor, ranks), base, ready)

    return ranks.in_turn(opened)


TUNING = run.Kind(read=read_config, check=checked, open=open_course)
