"""NaN losses and gradients: skip the step, after several go back to a checkpoint, at last give up."""

from __future__ import annotations

import math

import torch

from newleaf.errors import DivergedError
from newleaf.train.loop.run_state import RunState
from newleaf.train.loop.training_run import TrainingRun
from newleaf.train.objective.training_step import Step


def handle_skipped_step(run: TrainingRun, step: Step) -> None:
    """Warn at the first of several in a row; after too many, go back to the last checkpoint, once.

    Raises DivergedError when it was gone back to before.
    """
    in_a_row = run.health.in_a_row
    if in_a_row == 1:
        run.monitor.say(f"Warning: step {step.number} was skipped, its {why_skipped(step)}.")
    if in_a_row < run.objective.train.max_skipped:
        return
    if run.health.restored:
        raise DivergedError(_advice(run, step))
    _go_back(run, step.number)


def _advice(run: TrainingRun, step: Step) -> str:
    peak, advice = run.objective.optimizer, "look at the text around there"
    if run.objective.train.precision == "bf16":
        advice = f"try --train.precision fp32, or {advice}"
    return (
        f"{run.health.in_a_row} steps in a row up to {step.number} were skipped ({why_skipped(step)}), and a "
        f"lower rate did not help: begin again with lower rates (optimizer.learning_rate is "
        f"{peak.learning_rate:g}, matrix_learning_rate {peak.matrix_learning_rate:g}), {advice}"
    )


def _go_back(run: TrainingRun, step: int) -> None:
    """Restore the newest checkpoint from before the skipped steps, or the beginning, at a lower rate."""
    found = run.checkpoints.newest(run.monitor.say, lambda values: values["health"]["in_a_row"] == 0)
    earlier = RunState()
    if found is not None:
        earlier.load_state_dict(found.values)
        run.optimizer.load_state(run.checkpoints.tensors(found.step))
        run.rewind_metrics(found)
    else:
        torch.manual_seed(run.objective.train.seed)
        run.optimizer.load_state(run.build_optimizer(run.objective.build()).state())
        run.folder.metrics.rewind(None, 0)
    run.state.rewind(earlier)
    run.health.lower_rate(run.losses())
    run.validation.samples.count(run.folder.lines())
    scale = run.loop.rate_scale = run.health.rate_scale
    run.folder.record(step=run.state.step, restored_from=step, rate_scale=scale)
    where = f"the checkpoint of step {run.state.step}" if run.state.step else "the beginning"
    run.monitor.say(
        f"Warning: {run.objective.train.max_skipped} steps in a row were skipped; back to {where}, with "
        f"rates "
        f"times {scale:g}."
    )


def why_skipped(step: Step) -> str:
    return f"loss is {step.loss}" if not math.isfinite(step.loss) else f"gradient norm is {step.norm}"
