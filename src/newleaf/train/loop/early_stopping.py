"""Early stopping: a run ends once `train.patience` validations in a row were no better than the best."""

from __future__ import annotations

from newleaf.train.loop.training_run import TrainingRun


def out_of_patience(run: TrainingRun) -> bool:
    """Whether the run stops early; never with a patience of 0."""
    return 0 < run.objective.train.patience <= run.state.validations_without_gain
