"""The weights that a run leaves in model/: saved at validations, kept in memory while the disk is full."""

from __future__ import annotations

import math

from torch import Tensor

from newleaf.storage.integrity import find_damage
from newleaf.train.loop.training_run import TrainingRun
from newleaf.train.objective.objective import ValidationMetrics


class BestWeights:
    """Keeps `best`, `lowest` and `unsaved` of the run's state, and the weights they are of.

    `best` and `lowest` differ where `train.keep` is "last", and while the disk is full. Then the weights
    stay in memory and no later checkpoint is written, so that a resumed run finds its best weights in
    their folder or makes them again.
    """

    def __init__(self, run: TrainingRun) -> None:
        self.run, self.state = run, run.state
        self._unsaved_weights: dict[str, Tensor] | None = None

    @property
    def unsaved_step(self) -> int | None:
        """The step whose weights could not be written yet."""
        return int(self.state.unsaved["step"]) if self.state.unsaved is not None else None

    def update(self, found: ValidationMetrics) -> None:
        """Take in a validation, and save the present weights if they are what the run is to leave."""
        state = self.state
        state.validations_without_gain += 1
        if self.run.validation.better(found, state.lowest):
            state.lowest, state.validations_without_gain = self.run.with_step(found), 0
        if self.replaces(found, state.unsaved if state.unsaved is not None else state.best):
            self._save(self.run.with_step(found))
        else:
            self.save_unsaved()

    def replaces(self, found: ValidationMetrics, before: ValidationMetrics | None) -> bool:
        """Whether weights with these metrics take the place of those that were saved `before`."""
        if self.run.objective.train.keep == "last":
            return math.isfinite(found[self.run.objective.measure.key])
        return self.run.validation.better(found, before)

    def save_unsaved(self) -> bool:
        """Write the weights that a full disk has kept in memory; whether none are left there."""
        if self.state.unsaved is None:
            return True
        weights = self._unsaved_weights
        if self.run.attempt("the model", lambda: self.run.save_model(weights), self.unsaved_step):
            self.state.best, self.state.unsaved, self._unsaved_weights = self.state.unsaved, None, None
        return self.state.unsaved is None

    def restore(self, step: int) -> None:
        """After the state and the optimizer's weights were those of a checkpoint's `step`: write the weights
        that it could not write, or that were lost since."""
        if self.state.unsaved is not None:
            self._save(self.state.unsaved)
        elif (
            self.state.best is not None and (damage := self.run.ranks.on_rank_zero(self._damage)) is not None
        ):
            self._save_again(self.state.best, step, damage)

    def _save(self, found: ValidationMetrics) -> None:
        self.state.unsaved, self._unsaved_weights = None, None  # its memory first
        if self.run.attempt("the model", self.run.save_model, int(found["step"])):
            self.state.best = found
        else:
            weights = self.run.optimizer.weights_by_name()
            self.state.unsaved = found
            self._unsaved_weights = {name: weight.clone() for name, weight in weights.items()}

    def _damage(self) -> str | None:
        return find_damage(self.run.folder.product)

    def _save_again(self, best: ValidationMetrics, step: int, damage: str) -> None:
        """From the checkpoint of the best step, if there is one.

        Else the best is what comes from `step` on.
        """
        run, state, best_step = self.run, self.state, int(best["step"])
        if best_step != step and not run.checkpoints.is_intact(best_step):
            run.monitor.say(
                f"Warning: {damage}. The best model, of step {best_step}, is lost; the best from {step} on "
                f"takes its place."
            )
            state.best, state.lowest, state.validations_without_gain = None, None, 0
            state.validation_pending = True
            return
        if best_step != step:
            run.optimizer.load_state(run.checkpoints.tensors(best_step))
        self._save(best)
        if best_step != step:
            run.optimizer.load_state(run.checkpoints.tensors(step))
        run.monitor.say(
            f"Warning: {damage}. The model was made again from the checkpoint of step {best_step}."
        )
