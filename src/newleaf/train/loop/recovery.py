"""What a session does about steps that could not be taken: skip them, go back to a checkpoint at a lower
rate, give up with advice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from newleaf.errors import DivergedError
from newleaf.train.objective.training_step import Step

if TYPE_CHECKING:
    from newleaf.train.loop.session import Session


def skipped_step(session: Session, step: Step) -> None:
    """Say so at the first of a row; after too many, go back to the last checkpoint at a lower rate, once."""
    most, row = session.objective.train.max_skipped, session.health.in_a_row
    if row == 1:
        session.monitor.say(f"Warning: step {step.number} was skipped, its {why_skipped(step)}.")
    if row < most:
        return
    peak, advice = session.objective.optimizer, "look at the text around there"
    if session.objective.train.precision == "bf16":
        advice = f"try --train.precision fp32, or {advice}"
    if session.health.restored:
        raise DivergedError(
            f"{row} steps in a row up to {step.number} were skipped ({why_skipped(step)}), and a lower rate "
            f"did not help: "
            f"begin again with lower rates (optimizer.learning_rate is {peak.learning_rate:g}, "
            f"matrix_learning_rate "
            f"{peak.matrix_learning_rate:g}), {advice}"
        )
    _go_back(session, step.number)


def _go_back(session: Session, step: int) -> None:
    found = session.checkpoints.newest(session.monitor.say, lambda values: values["health"]["in_a_row"] == 0)
    if found is not None:
        session.optimizer.load_state(session.checkpoints.tensors(found.step))
        session.loop.step, session.loop.tokens, session.last_progress = (
            found.step,
            found.values["tokens"],
            found.values["progress"],
        )
        session.rewind_metrics(found)
    else:
        torch.manual_seed(session.objective.train.seed)
        session.optimizer.load_state(session.optimizer_of(session.objective.build()).state())
        session.loop.step, session.loop.tokens, session.last_progress = 0, 0, 0.0
        session.folder.metrics.rewind(None, 0)
    session.health.recent.clear()
    session.health.recent.extend(session.losses())
    session.validation.samples.count(session.folder.lines())
    session.health.lower()
    session.loop.rate_scale = session.health.rate_scale
    session.folder.record(step=session.loop.step, restored_from=step, rate_scale=session.health.rate_scale)
    where = f"the checkpoint of step {session.loop.step}" if session.loop.step else "the beginning"
    row = session.objective.train.max_skipped
    session.monitor.say(
        f"Warning: {row} steps in a row were skipped; back to {where}, with rates times "
        f"{session.health.rate_scale:g}."
    )


def why_skipped(step: Step) -> str:
    return f"loss is {step.loss}" if not math.isfinite(step.loss) else f"gradient norm is {step.norm}"
