"""Training from Python: the command line's options as keywords."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from newleaf.api.run import Run
from newleaf.errors import InputError
from newleaf.machine import flush_denormals
from newleaf.recipe import build, merge, read_recipe, recipe_of
from newleaf.train.display.monitor import Monitor, SilentMonitor, pick_monitor
from newleaf.train.distributed.process_group import is_rank_zero
from newleaf.train.objective.train_config import LENGTHS, PretrainConfig
from newleaf.train.pretraining.start_pretraining import PRETRAINING
from newleaf.train.pretraining.start_pretraining import pretrain as run_pretraining
from newleaf.train.run import resume as resume_run
from newleaf.train.runs.run_folder import RunFolder

NOT_RESUMED = (
    "a run goes on as it was begun; only steps, time, tokens or epochs, which extend it, go with resume"
)


def pretrain(
    *source: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    started: float | None = None,
    monitor: Monitor | None = None,
    **options: Any,
) -> Run:
    """Train a new model from text. Options are the recipe's sections (`data={...}`, `model={...}`, …), and
    `time`, `steps`, `tokens`, `epochs`, `size`, `seed`, `threads`, `device`, `track` as on the command line;
    `config` is a recipe they are laid over.

    Returns the finished run. Raises InputError for bad input, before anything is written.
    """
    begun = clock.monotonic() if started is None else started
    recipe = read_recipe(Path(config)) if config is not None else {}
    values = _recipe_values(recipe, Path(config).parent if config is not None else Path(), options)
    if source:
        values["source"] = [str(item) for item in source]
        if "validation" not in options.get("data", {}):
            # A recipe's validation text belongs to the recipe's source.
            values = merge(values, {"data": {"validation": None, "validation_limit": None}})
    built = build(PretrainConfig, values)
    return _watched(monitor, quiet, lambda shown: run_pretraining(built, out, shown, begun, overwrite))


def finetune(
    model: str | Path | None = None,
    *data: str | Path,
    task: str | None = None,
    out: str | Path,
    config: str | Path | None = None,
    overwrite: bool = False,
    sweep: bool = False,
    quiet: bool = False,
    started: float | None = None,
    monitor: Monitor | None = None,
    **options: Any,
) -> Run:
    """Tune a model on data. `task` is one of text, classify, pair, similarity, choice, …; options are the
    recipe's sections and short names as for `pretrain`; `config` is a recipe they are laid over. With
    `remove_leftovers`, short runs find the learning rate first.

    Returns the finished run. Raises InputError for bad input, before anything is written.
    """
    from newleaf.tune.learning_rate_sweep import sweep_learning_rate as run_sweep
    from newleaf.tune.start_finetuning import finetune as run_tuning
    from newleaf.tune.start_finetuning import read_config as read_tuning

    begun = clock.monotonic() if started is None else started
    recipe = read_recipe(Path(config)) if config is not None else {}
    values = _recipe_values(recipe, Path(config).parent if config is not None else Path(), options)
    values |= {
        "task": task or values.get("task"),
        "model": str(model) if model is not None else values.get("model", ""),
    }
    if data:
        values["source"] = [str(item) for item in data]
    built = read_tuning(values)
    work = run_sweep if sweep else run_tuning
    return _watched(monitor, quiet, lambda shown: work(built, out, shown, begun, overwrite))


def resume(
    path: str | Path,
    quiet: bool = False,
    started: float | None = None,
    monitor: Monitor | None = None,
    *,
    time: str | float | None = None,
    steps: int | None = None,
    tokens: int | None = None,
    epochs: float | None = None,
    **others: Any,
) -> Run:
    """Go on with a run that was stopped, from its last checkpoint; a finished one is returned as it is.

    One of `steps`, `tokens` and `epochs` (of the whole run) or `time` (more of it) extends a run, a finished
    one too: the learning rate warms up again and decays anew. Raises InputError, naming it, for any other
    option: a run goes on as it was begun.
    """
    if others:
        raise InputError(f"{next(iter(others))}: {NOT_RESUMED}")
    lengths = {"time": time, "steps": steps, "tokens": tokens, "epochs": epochs}
    begun = clock.monotonic() if started is None else started
    tuned = bool(RunFolder(path).read_config().get("task"))
    if tuned:
        from newleaf.tune.start_finetuning import TUNING

        return _watched(monitor, quiet, lambda shown: resume_run(TUNING, path, shown, begun, lengths))
    return _watched(monitor, quiet, lambda shown: resume_run(PRETRAINING, path, shown, begun, lengths))


def _recipe_values(recipe: Mapping[str, Any], beside: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with options laid over it; `time=`, `seed=`, `track=` and the like are short for fields of
    `train`."""
    given = dict(options)
    short = {
        name: given.pop(name) for name in (*LENGTHS, "seed", "threads", "device", "track") if name in given
    }
    values = merge(recipe_of(recipe), given, {"train": short})
    train = values["train"]
    lengths = {
        name for name in LENGTHS if short.get(name, (options.get("train") or {}).get(name)) is not None
    }
    if lengths:
        # A length on top of a recipe takes the place of the recipe's own.
        train.update({name: None for name in (*LENGTHS, "replay") if name not in lengths} | {"extended": ()})
    if train.get("replay"):
        # A timed run's recipe: its steps and rates are taken from what it recorded, not from the clock.
        train |= {"extended": (), "replay": str((beside / train["replay"]).resolve()), "time": None}
    return values


def _watched(monitor: Monitor | None, quiet: bool, work: Callable[[Monitor], RunFolder]) -> Run:
    shown = monitor or (SilentMonitor() if quiet or not is_rank_zero() else pick_monitor())
    try:
        with flush_denormals():
            return Run(work(shown).path)
    finally:
        shown.close()
