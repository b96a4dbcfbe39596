"""Going on from a checkpoint: the run is as it was when that was written."""

from __future__ import annotations

from newleaf.errors import InputError
from newleaf.train.loop.best_weights import BestWeights
from newleaf.train.loop.training_run import TrainingRun
from newleaf.train.runs.checkpoint import Checkpoint

REQUIRED = (
    "step", "tokens", "train_seconds", "total_seconds", "progress", "best", "windows", "micro_batch_size",
    "checks_without_gain", "check_pending", "health", "metrics_bytes",
)  # of a checkpoint's values  # fmt: skip


def restore(run: TrainingRun, best: BestWeights, found: Checkpoint) -> None:
    """Restore weights, optimizer, counters, the best model, and the metrics as they were then.

    Raises InputError for the checkpoint of a release that wrote other values.
    """
    values = found.values
    if missing := [name for name in REQUIRED if name not in values]:
        raise InputError(
            f"{run.folder.state}: the checkpoint of step {found.step} lacks {missing[0]}; another version "
            f"wrote it"
        )
    run.optimizer.load_state(run.checkpoints.tensors(found.step))
    run.state.load_state_dict(values)
    run.resumed_from = run.state.step
    run.loop.micro_batch_size = values["micro_batch_size"]
    run.validation.load_state_dict(values)
    run.rewind_metrics(found)
    run.health.load_state_dict(values["health"], run.losses())
    run.validation.samples.count(run.folder.lines())
    run.loop.rate_scale = run.health.rate_scale
    run.folder.restore_best()
    best.restore(found.step)
    _restore_clock(run, found.step)


def _restore_clock(run: TrainingRun, step: int) -> None:
    """Count the time of a timed run on, or anew where the run is extended from here."""
    state, spent = run.state, run.state.total_seconds
    extension = run.objective.train.extended[-1] if run.objective.train.extended else None
    if extension is not None and step <= extension.step:
        spent, state.progress = 0.0, 0.0
        _begin_extension(run, step)
    elif extension is not None:
        spent -= extension.before
    if run.clock is not None:
        run.clock.resume(spent, state.progress)


def _begin_extension(run: TrainingRun, step: int) -> None:
    """The part before an extension ends with a validation, as every part does, and patience counts anew."""
    run.state.validations_without_gain = 0
    last = max((line["step"] for line in run.folder.lines() if "val_windows" in line), default=0)
    run.state.validation_pending = last != step
