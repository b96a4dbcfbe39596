"""Fine-tuning as a kind of run: recipe to task, base and objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.recipe import build, merge
from newleaf.train import run
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Objective
from newleaf.train.objective.train_config import TrainConfig, with_batch_size
from newleaf.train.pretraining.prepare_pretraining import resolve_machine_options, timed_budget
from newleaf.train.runs.run_folder import RunFolder
from newleaf.train.size_from_budget import USEFUL_SHARE
from newleaf.tune import hyperparameters
from newleaf.tune.base_model import Base, open_base
from newleaf.tune.labels.label_config import LabelTaskConfig
from newleaf.tune.lora import with_adapter
from newleaf.tune.matching_tasks import suggestion
from newleaf.tune.tune_config import TuneConfig
from newleaf.tune.tuning_task import Task, task_named

TRAINED_SHARE = 0.7  # of a timed run, for which it trains
LENGTHS = ("time", "steps", "tokens", "epochs", "replay")


def read_config(values: Mapping[str, Any]) -> TuneConfig:
    """A recipe's configuration, with its task's defaults under it. Raises InputError naming the key."""
    if not values.get("task"):
        sources = [str(each) for each in values.get("source") or ()]
        raise InputError(
            f"task: missing; say what is to be learned, such as --task classify{suggestion(sources)}"
        )
    task = task_named(str(values["task"]))
    return build(task.config, merge(task.defaults, values))


def finetune(
    config: TuneConfig, out: str | Path, monitor: Monitor, started: float, overwrite: bool = False
) -> RunFolder:
    """Tune `config.model` on `config.source` into the run folder `out`; see `run.begin`."""
    return run.begin(TUNING, config, out, monitor, started, overwrite)


def checked(config: TuneConfig, monitor: Monitor) -> TuneConfig:
    """The configuration with a length, checked for what needs neither model nor data."""
    if not config.model:
        raise InputError("no model: name the folder, run, GGUF file or Hub model to begin from")
    if not config.source:
        raise InputError(
            f"no data: {config.model} was taken as the model; newleaf finetune MODEL DATA wants both"
        )
    if config.train.parallel == "fsdp":
        raise InputError("train.parallel: fsdp shards networks that are pretrained; fine-tuning takes ddp")
    if config.lora is not None and config.base.fresh:
        raise InputError(
            "base.fresh: draws the weights anew, and an adapter needs weights that have learnt; leave one "
            "of them out"
        )
    if not any(getattr(config.train, name) for name in LENGTHS):
        epochs = task_named(config.task).epochs
        monitor.say(f"No length given: taking --epochs {epochs:g}.")
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))
    return config


def open_objective(config: TuneConfig, monitor: Monitor, ranks: Ranks) -> Objective:
    """The objective of a recipe: base and data, opened and checked. Raises InputError."""
    task: Task = task_named(config.task)
    # Measured by one process: two measurements may differ.
    precision = ranks.on_rank_zero(lambda: {"precision": resolve_machine_options(config.train).precision})[
        "precision"
    ]

    def opened() -> Objective:
        ready = dataclasses.replace(
            config, train=resolve_machine_options(dataclasses.replace(config.train, precision=precision))
        )
        base = open_base(ready)
        if base.head is not None and not issubclass(task.config, LabelTaskConfig):
            raise InputError(
                f"{config.model}: gives labels and has no language model's head; --task {config.task} "
                f"begins from a language model"
            )
        objective: Any = _opened(task, ready, base, monitor, ranks)
        objective.config = resolve_hyperparameters(objective, task.usual, base, monitor, ranks.size)
        return with_adapter(objective, base, ready)

    return ranks.rank_zero_first(opened)


def _opened(task: Task, config: TuneConfig, base: Base, monitor: Monitor, ranks: Ranks) -> Objective:
    """The task's objective. Where the data is for another task, the error says for which."""
    try:
        return task.open(config, base, monitor, ranks)
    except InputError as error:
        if more := suggestion(config.source, config.task):
            raise InputError(f"{error}{more}") from error
        raise


def resolve_hyperparameters(
    objective: Any, usual: hyperparameters.TaskDefaults, base: Base, monitor: Monitor, processes: int
) -> TuneConfig:
    """The configuration of an opened objective with the optimizer, rates and batch size that its recipe
    leaves open."""
    config: TuneConfig = objective.config
    asked, lora = config.optimizer, config.lora is not None
    size = hyperparameters.batch_size(
        usual, config.train, objective.row_count, objective.row_length, processes
    )
    found = hyperparameters.rates(base.config.n_embd, base.origin, lora, _steps(objective, size), usual)
    optimizer = hyperparameters.optimizer(asked, found, lora)
    if asked.learning_rate is None and asked.matrix_learning_rate is None:
        peak = f"AdamW's {optimizer.learning_rate:g}"
        peak += f", Muon's {optimizer.matrix_learning_rate:g}" if optimizer.kind == "muon" else ""
        why = found.why if optimizer.kind == found.kind else "half of pretraining's"
        monitor.say(f"Learning rates: {peak}, {why}. Batches of {counted(size, 'row')}.")
    return dataclasses.replace(config, optimizer=optimizer, train=with_batch_size(config.train, size))


def _steps(objective: Any, batch_size: int) -> float:
    """How many there will be, about."""
    train: TrainConfig = objective.config.train
    per_step = batch_size * objective.row_tokens
    if train.time is not None:
        budget = timed_budget(train)
        return float(
            (budget.seconds or 0.0)
            * TRAINED_SHARE
            * USEFUL_SHARE
            * budget.matrix_speed
            / (objective.flops_per_token * per_step)
        )
    if train.tokens is not None:
        return float(train.tokens / per_step)
    return float(train.steps or (train.epochs or 1) * objective.row_count / batch_size)


TUNING = run.RunKind(read=read_config, check=checked, open=open_objective)
