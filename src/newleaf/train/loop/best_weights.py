"""The weights that a run is to leave in model/: kept at each check, in memory while the disk is full, made
again when they were lost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from newleaf.storage.integrity import find_damage

if TYPE_CHECKING:
    from newleaf.train.loop.session import Session
    from newleaf.train.objective.objective import Figures
    from newleaf.train.runs.checkpoint import Checkpoint


class BestWeights:
    """`kept` are the figures of what stands in the product's folder, with their "step"; `lowest` those of the
    best validation.

    They differ where `train.keep` is "last", and while the disk is full: then the weights wait in memory, and
    no later checkpoint is written, so that a run which goes on from one finds its best weights in their
    folder or makes them again.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.kept: Figures | None = None
        self.lowest: Figures | None = None
        self.validations_without_gain = 0
        self._waiting: tuple[Figures, dict[str, Tensor]] | None = None

    @property
    def unsaved_step(self) -> int | None:
        """The step whose weights could not be written yet."""
        return int(self._waiting[0]["step"]) if self._waiting is not None else None

    def update(self, found: Figures) -> None:
        """Take in a validation, and keep the present weights if they are what the run is to leave."""
        self.validations_without_gain += 1
        if self.better(found, self.lowest):
            self.lowest, self.validations_without_gain = self.session.figures(found), 0
        before = self._waiting[0] if self._waiting is not None else self.kept
        if self.wanted(found, before):
            self._write(self.session.figures(found))
        else:
            self.write_unsaved()

    def wanted(self, found: Figures, before: Figures | None) -> bool:
        """Whether weights with these figures are to take the place of those that were kept `before`."""
        if self.session.objective.train.keep == "last":
            return math.isfinite(found[self.session.objective.measure.key])
        return self.better(found, before)

    def better(self, found: Figures, than: Figures | None) -> bool:
        """Whether these figures are finite and better."""
        return self.session.validation.better(found, than)

    def write_unsaved(self) -> bool:
        """Write weights that a full disk has kept in memory; whether none wait any more."""
        if self._waiting is None:
            return True
        figures, weights = self._waiting
        if self.session.attempt("the model", lambda: self.session.save_model(weights), int(figures["step"])):
            self.kept, self._waiting = figures, None
        return self._waiting is None

    def state(self) -> dict[str, object]:
        """What a checkpoint notes: these weights are in their folder, or are the checkpoint's own."""
        return {
            "best": self.kept,
            "lowest": self.lowest,
            "unwritten": self._waiting[0] if self._waiting is not None else None,
            "checks_without_gain": self.validations_without_gain,
        }

    def restore(self, found: Checkpoint) -> None:
        """Be as a checkpoint was, whose weights the optimizer holds; write those that it could not write, or
        that were lost since."""
        state = found.values
        self.kept, self.validations_without_gain = state["best"], state["checks_without_gain"]
        self.lowest = state.get("lowest") or state.get("unwritten") or self.kept
        if state.get("unwritten") is not None:
            self._write(state["unwritten"])
        elif (
            self.kept is not None and (trouble := self.session.ranks.on_rank_zero(self._trouble)) is not None
        ):
            self._make_again(found.step, trouble)

    def _write(self, figures: Figures) -> None:
        self._waiting = None  # its memory first
        if self.session.attempt("the model", self.session.save_model, int(figures["step"])):
            self.kept = figures
        else:
            self._waiting = (
                figures,
                {name: weight.clone() for name, weight in self.session.optimizer.weights_by_name().items()},
            )

    def _trouble(self) -> str | None:
        return find_damage(self.session.folder.product)

    def _make_again(self, step: int, trouble: str) -> None:
        """From the checkpoint of the best step, while there is one; otherwise the best is what is found from
        `step` on."""
        assert self.kept is not None
        session, best = self.session, int(self.kept["step"])
        if best != step and not session.checkpoints.is_whole(best):
            session.monitor.say(
                f"Warning: {trouble}. The best model, of step {best}, is lost; the best from {step} on "
                f"takes its place."
            )
            self.kept, self.lowest, self.validations_without_gain, session.validation_pending = (
                None,
                None,
                0,
                True,
            )
            return
        if best != step:
            session.optimizer.load_state(session.checkpoints.tensors(best))
        self._write(self.kept)
        if best != step:
            session.optimizer.load_state(session.checkpoints.tensors(step))
        session.monitor.say(
            f"Warning: {trouble}. The model was made again from the checkpoint of step {best}."
        )
