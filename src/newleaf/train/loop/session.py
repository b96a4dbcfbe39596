"""Training from the first step to the last: what happens between the loop's steps, and how it is stopped."""

from __future__ import annotations

import math

from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.best_weights import BestWeights
from newleaf.train.loop.early_stopping import out_of_patience
from newleaf.train.loop.finish import finish, stop
from newleaf.train.loop.recovery import handle_skipped_step, why_skipped
from newleaf.train.loop.restore import restore
from newleaf.train.loop.training_run import TrainingRun
from newleaf.train.objective.objective import Objective
from newleaf.train.objective.schedule import ReplaySchedule
from newleaf.train.objective.training_step import Step
from newleaf.train.runs.checkpoint import Checkpoint
from newleaf.train.runs.run_folder import RunFolder
from newleaf.train.signals import Interrupt

PLOT_EVERY = 30.0  # seconds before loss.png is drawn anew


class StopRequestedError(Exception):
    """Someone asked to stop while the network was being examined."""


class Session:
    """Watches the loop of one objective. `restore` first, to go on from a checkpoint."""

    def __init__(
        self, objective: Objective, folder: RunFolder, monitor: Monitor, interrupt: Interrupt, started: float,
        ranks: Ranks | None = None, matrix_speed: float = 0.0,
    ) -> None:  # fmt: skip
        """`matrix_speed` is the machine's, FLOP/s: it predicts the first step of a timed run."""
        self.monitor, self.folder, self.ranks = monitor, folder, ranks or Ranks()
        self.ranks.stopping = lambda: interrupt.requested
        self.run = TrainingRun(
            objective,
            folder,
            monitor,
            started,
            self.ranks,
            matrix_speed,
            watcher=self,
            check_stop=self._check_stop,
        )
        self.state, self.loop, self.validation = self.run.state, self.run.loop, self.run.validation
        self.best = BestWeights(self.run)
        schedule = self.run.schedule
        self.replayed_validations: frozenset[int] = (
            schedule.checks if isinstance(schedule, ReplaySchedule) else frozenset()
        )
        self.begun_at = 0.0, 0.0  # seconds of training and progress before this process
        self.last_plot: float | None = None

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint."""
        restore(self.run, self.best, found)
        self.begun_at = self.state.seconds, self.state.progress
        self.monitor.say(f"Resumed at step {self.state.step}.")

    def train(self) -> None:
        """Run the loop to its end and finish the folder; when asked to stop, leave it ready to resume."""
        validate = True
        try:
            self.validation.choose_rows()
            if self.state.step == 0:
                self._validate_before_training()
            if self.state.validation_pending:
                self.check(self.state.step)
            if not out_of_patience(self.run):
                self.loop.run()
            if not self.loop.interrupted:
                validate = False
                finish(self.run, self.best)
                return
        except StopRequestedError:
            pass
        stop(self.run, self.best, validate)

    # What the loop asks and tells.

    def stop_requested(self) -> bool:
        return self.ranks.stop_requested()

    def step(self, step: Step) -> None:
        spike = self.run.health.update(step.loss, step.skipped)
        peak = self.run.objective.optimizer
        rates = {"lr": peak.learning_rate * step.factor, "matrix_lr": peak.matrix_learning_rate * step.factor}
        measured = {
            name: value
            for name, value in (("loss", step.loss), ("grad_norm", step.norm))
            if math.isfinite(value)
        }
        measured |= {name: value for name, value in step.terms.items() if math.isfinite(value)}
        marks = {"skipped": why_skipped(step)} if step.skipped else {"spike": True} if spike else {}
        took = {"tokens": step.tokens, "seconds": round(step.seconds, 3)}
        self.folder.record(
            **({"step": step.number} | measured | {"factor": step.factor} | rates | took | marks)
        )
        left = self.run.clock.remaining() if self.run.clock else self._seconds_left(step)
        self.monitor.step(step, left)
        if step.skipped:
            handle_skipped_step(self.run, step)

    def _seconds_left(self, step: Step) -> float:
        """By how long this process has taken for its part of the run."""
        seconds, progress = self.begun_at
        return (step.seconds - seconds) * (1 - step.progress) / max(step.progress - progress, 1e-9)

    def reduce_micro_batch(self, windows: int) -> None:
        self.folder.record(step=self.state.step, micro_batch_size=windows)
        self.monitor.say(
            f"Out of memory: from now on {windows} windows at once, and more micro-batches a step; "
            "the result is the same."
        )

    def validation_due(self, step: Step) -> bool:
        if self.state.step != step.number:
            return False  # the step was taken back
        before, self.state.progress = self.state.progress, step.progress
        every = self.run.objective.train.eval_every
        if self.state.step in {each.step for each in self.run.objective.train.extended}:
            due = True
        elif self.replayed_validations:
            due = step.number in self.replayed_validations
        else:
            count = self.validation.count
            due = step.number % every == 0 if every else int(step.progress * count) > int(before * count)
        self.state.validation_pending = due or step.progress >= 1
        return self.state.validation_pending

    def check(self, step: int) -> bool:
        """Validate and sample, keep the best weights in model/, write a checkpoint, now and then the plot.

        False when it is enough.

        Whatever is asked to stop before the first line is recorded; a checkpoint knows all that was recorded
        before it.
        """
        begin = self.ranks.clock()
        found = self.validation.validate(self.validation.rows)
        self.validation.tell(step, found)
        samples = self.validation.samples.take(step)
        self.validation.record(step, found)
        self.validation.record_samples(step, samples)
        self.state.validation_pending = False
        self.best.update(found)
        # what is gone back to must be from before skipped steps
        if self.run.health.in_a_row == 0 and self.best.unsaved_step in (None, step):
            self.run.attempt("the checkpoint", self.run.save_checkpoint)
        self.validation.reserve(self.ranks.clock() - begin)
        # The last of all is drawn when the run is finished.
        if self.last_plot is None or (
            self.state.progress < 1 and self.ranks.clock() > self.last_plot + PLOT_EVERY
        ):
            self.run.plot()
            self.last_plot = self.ranks.clock()
        return not out_of_patience(self.run)

    def _validate_before_training(self) -> None:
        """What the network can do before the first step: a figure where that is worth one, and samples."""
        if self.run.objective.validates_before_training:
            found = self.validation.final_validation()
            self.validation.tell(0, found)
            self.validation.record(0, found, self.validation.final_rows)
        self.validation.record_samples(0, self.validation.samples.take(0))

    def _check_stop(self) -> None:
        self.ranks.sum()
        if self.stop_requested():
            raise StopRequestedError
