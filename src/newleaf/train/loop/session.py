"""One run under way: the loop's watcher, its checks and checkpoints, what it does when something goes wrong,
how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.distributed.sharding import Replicated, Sharded
from newleaf.train.loop.best_weights import BestWeights
from newleaf.train.loop.finish import finish, leave
from newleaf.train.loop.loop import Loop
from newleaf.train.loop.loss_health import LossHealth
from newleaf.train.loop.micro_batch import choose_micro_batch
from newleaf.train.loop.optimizer import Optimizer
from newleaf.train.loop.recovery import skipped_step, why_skipped
from newleaf.train.loop.validation import Validation
from newleaf.train.objective.objective import Batches, Figures, Objective
from newleaf.train.objective.schedule import ClockSchedule, ReplaySchedule, Shape
from newleaf.train.objective.training_step import Step
from newleaf.train.runs.checkpoint import Checkpoint, Checkpoints
from newleaf.train.runs.disk_space import announce, folder_bytes
from newleaf.train.runs.run_folder import RunFolder
from newleaf.train.runs.run_length import StepSize, build_schedule
from newleaf.train.signals import Interrupt
from newleaf.train.sizing import USEFUL_SHARE

PLOT_EVERY = 30.0  # seconds before loss.png is drawn anew
NEEDED = (
    "step", "tokens", "train_seconds", "total_seconds", "progress", "best", "windows", "micro_batch_size", "checks_without_gain",
    "check_pending", "health", "metrics_bytes",
)  # of a checkpoint's values  # fmt: skip


class StopRequestedError(Exception):
    """Someone asked to stop while the network was being examined."""


class Session:
    """Watches the loop of one objective. `restore` first, to go on from a checkpoint.

    Of several processes each has one, and all do the same: what they measure is the first one's, and only its
    `folder` writes.
    """

    def __init__(
        self, objective: Objective, folder: RunFolder, monitor: Monitor, interrupt: Interrupt, started: float, ranks: Ranks | None = None,
        matrix_speed: float = 0.0,
    ) -> None:  # fmt: skip
        """`matrix_speed` is the machine's, FLOP/s, by which the first step of a timed run is foretold."""
        self.matrix_speed = matrix_speed
        self.objective, self.folder, self.monitor, self.started, self.ranks = (
            objective,
            folder,
            monitor,
            started,
            ranks or Ranks(),
        )
        self.ranks.stopping = lambda: interrupt.requested
        train = objective.train
        torch.manual_seed(train.seed)
        network = objective.build()
        folder.product = folder.path / objective.product
        self.optimizer = self.optimizer_of(network)
        batches = objective.batches((self.ranks.rank, self.ranks.size))
        self.replayed_validations: frozenset[int] = frozenset()
        replayed_rows, replayed_closing = 0, (0, 0)
        self.clock: ClockSchedule | None = None
        micro_batch_size = train.micro_batch_size or self._measured_micro_batch(network, batches)
        size = StepSize(train.batch_size, train.batch_size * objective.row_tokens, batches.rows_per_epoch)
        schedule = build_schedule(train, size, self._clock)
        self.extension = train.extended[-1] if train.extended else None
        if isinstance(schedule, ReplaySchedule):
            self.replayed_validations, replayed_rows, replayed_closing = (
                schedule.checks,
                schedule.windows,
                schedule.closing,
            )
        self.loop = Loop(
            network, self.optimizer, schedule, batches.batch, micro_batch_size, train.seed, self,
            ranks=self.ranks, losses=objective.losses, terms=objective.terms,
        )  # fmt: skip
        self.validation = Validation(
            objective, network, self._check_stop, self.ranks, self.clock, folder, monitor
        )
        self.validation.take_up(replayed_rows, replayed_closing)
        self.checkpoints = Checkpoints(folder.state, train.keep_checkpoints, self.optimizer.layout)
        self.health = LossHealth()
        self.best = BestWeights(self)
        self.validation_pending = False  # the last step's check is not done yet
        self.elapsed_before = 0.0
        self.resumed_from = 0
        self.last_progress = 0.0
        self.begun_at = 0.0, 0.0  # seconds of training and progress before this process
        self.last_plot: float | None = None

    def optimizer_of(self, network: nn.Module) -> Optimizer:
        """Lays a new network out over the processes, and takes its weights."""
        train = self.objective.train
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        layout = (
            Sharded(self.ranks)
            if train.parallel == "fsdp" and self.ranks.size > 1
            else Replicated(self.ranks)
        )
        layout.spread(network, torch.device(train.device or "cpu"), dtype)
        return Optimizer(network, self.objective.optimizer, dtype, layout)

    def _measured_micro_batch(self, network: nn.Module, batches: Batches) -> int:
        """The rows in memory at once, where the recipe leaves them open: as many as fit, by a step that is
        measured."""
        if self.optimizer.layout.in_step:
            raise InputError(
                "train.micro_batch_size: not measured with train.parallel fsdp; say how many windows a "
                "process takes at once"
            )
        # The moments that AdamW adds in its first step, and fp32 copies of the gradients while it takes one.
        coming = 2 * self.optimizer.full_bytes() - sum(
            tensor.nbytes for tensor in self.optimizer.state().values()
        )
        chosen, sentence = choose_micro_batch(
            network, batches.widest(), coming, self.ranks.local_size, self.objective.losses
        )
        if sentence is not None:
            self.monitor.say(sentence)
        return int(self.ranks.from_rank_zero(chosen))

    def _clock(self, length: float, shape: Shape) -> ClockSchedule:
        """A schedule that follows the clock of the first process, which began before this."""
        already = self.ranks.from_rank_zero(self.ranks.clock() - self.started)
        self.clock = ClockSchedule(length, shape, already, self.ranks.now)
        flops = self.objective.flops_per_token * self.objective.train.batch_size * self.objective.row_tokens
        self.clock.step_seconds = self.ranks.from_rank_zero(
            flops / (USEFUL_SHARE * self.matrix_speed) if self.matrix_speed else 0.0
        )
        return self.clock

    def announce_disk(self) -> None:
        """Say what the run will write. Raises InputError when the disk has no room for the first of it."""
        already = folder_bytes(self.folder.state) + folder_bytes(self.folder.product)
        model = 4 * sum(weight.numel() for weight in self.optimizer.weights.values())
        keep = self.objective.train.keep_checkpoints
        state = self.optimizer.full_bytes()
        if self.optimizer.layout.in_step:
            state = int(self.ranks.sum(state)[0])
        self.monitor.say(
            self.ranks.on_rank_zero(lambda: announce(self.folder.path, state, model, keep, already))
        )

    def restore(self, found: Checkpoint) -> None:
        """Take up a checkpoint: weights, optimizer, counters, the best model, and the metrics as they were
        then."""
        state = found.values
        if lacking := [name for name in NEEDED if name not in state]:
            raise InputError(
                f"{self.folder.state}: the checkpoint of step {found.step} lacks {lacking[0]}; another "
                f"version wrote it"
            )
        self.optimizer.load_state(self.checkpoints.tensors(found.step))
        self.loop.step, self.loop.tokens, self.loop.seconds = (
            state["step"],
            state["tokens"],
            state["train_seconds"],
        )
        self.loop.micro_batch_size = state["micro_batch_size"]
        self.elapsed_before, self.resumed_from = state["total_seconds"], state["step"]
        progress, self.validation_pending = state["progress"], state["check_pending"]
        self.validation.take_up(state["windows"], tuple(state.get("closing", (0, 0))))
        self.rewind_metrics(found)
        self.health.restore(state["health"], self.losses())
        self.validation.samples.count(self.folder.lines())
        self.loop.rate_scale = self.health.rate_scale
        self.folder.take_back_best()
        self.best.restore(found)
        spent = self.elapsed_before
        if self.extension is not None and found.step <= self.extension.step:
            spent, progress = 0.0, 0.0
            self._begin_extension(found.step)
        elif self.extension is not None:
            spent -= self.extension.before
        self.last_progress = progress
        if self.clock is not None:
            self.clock.resume(spent, progress)
        self.begun_at = self.loop.seconds, progress
        self.monitor.say(f"Resumed at step {self.loop.step}.")

    def _begin_extension(self, step: int) -> None:
        """The part before an extension ends with a check, as every part does, and patience counts anew."""
        self.best.validations_without_gain = 0
        last = max((line["step"] for line in self.folder.lines() if "val_windows" in line), default=0)
        self.validation_pending = last != step

    def train(self) -> None:
        """Run the loop to its end and leave the folder finished; when asked to stop, usable and ready to
        resume."""
        validate = True
        try:
            self.validation.choose_rows()
            if self.loop.step == 0:
                self._validate_before_training()
            if self.validation_pending:
                self.check(self.loop.step)
            if not self.out_of_patience():
                self.loop.run()
            if not self.loop.interrupted:
                validate = False
                finish(self)
                return
        except StopRequestedError:
            pass
        leave(self, validate)

    # What the loop asks and tells.

    def stop_requested(self) -> bool:
        return self.ranks.stop_requested()

    def step(self, step: Step) -> None:
        spike = self.health.update(step.loss, step.skipped)
        peak = self.objective.optimizer
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
        left = self.clock.remaining() if self.clock else self._seconds_left(step)
        self.monitor.step(step, left)
        if step.skipped:
            skipped_step(self, step)

    def _seconds_left(self, step: Step) -> float:
        """By how long this process has taken for its part of the run."""
        seconds, progress = self.begun_at
        return (step.seconds - seconds) * (1 - step.progress) / max(step.progress - progress, 1e-9)

    def reduce_micro_batch(self, windows: int) -> None:
        self.folder.record(step=self.loop.step, micro_batch_size=windows)
        self.monitor.say(
            f"Out of memory: from now on {windows} windows at once, and more micro-batches a step; "
            "the result is the same."
        )

    def validation_due(self, step: Step) -> bool:
        if self.loop.step != step.number:
            return False  # the step was taken back
        before, self.last_progress = self.last_progress, step.progress
        every = self.objective.train.eval_every
        if self.loop.step in {each.step for each in self.objective.train.extended}:
            due = True
        elif self.replayed_validations:
            due = step.number in self.replayed_validations
        else:
            count = self.validation.count
            due = step.number % every == 0 if every else int(step.progress * count) > int(before * count)
        self.validation_pending = due or step.progress >= 1
        return self.validation_pending

    def check(self, step: int) -> bool:
        """Validate and sample, keep the best weights in model/, write a checkpoint, now and then the plot;
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
        self.validation_pending = False
        self.best.update(found)
        # what is gone back to must be from before skipped steps
        if self.health.in_a_row == 0 and self.best.unsaved_step in (None, step):
            self.attempt("the checkpoint", self.save_checkpoint)
        self.validation.reserve(self.ranks.clock() - begin)
        # The last of all is drawn when the run is finished.
        if self.last_plot is None or (
            self.last_progress < 1 and self.ranks.clock() > self.last_plot + PLOT_EVERY
        ):
            self.plot()
        return not self.out_of_patience()

    def _validate_before_training(self) -> None:
        """What the network can do before the first step: a figure where that is worth one, and samples."""
        if self.objective.validates_before_training:
            found = self.validation.final_validation()
            self.validation.tell(0, found)
            self.validation.record(0, found, self.validation.closing_rows)
        self.validation.record_samples(0, self.validation.samples.take(0))

    # When something goes wrong.

    def _check_stop(self) -> None:
        self.ranks.sum()
        if self.stop_requested():
            raise StopRequestedError

    def attempt(self, what: str, write: Callable[[], object], step: int | None = None) -> bool:
        """Write something that training can go on without, for now; whether it worked. It is of this `step`,
        or of the last one."""
        try:
            write()
        except OSError as error:
            why, number = (error.strerror or str(error)).lower(), self.loop.step if step is None else step
            self.monitor.say(
                f"Warning: {what} of step {number} could not be written ({why}); the one before stays as it "
                f"is."
            )
            return False
        return True

    def out_of_patience(self) -> bool:
        patience = self.objective.train.patience
        return 0 < patience <= self.best.validations_without_gain

    # The model, and checkpoints.

    def figures(self, found: Figures) -> Figures:
        return {"step": self.loop.step, **found}

    def save_model(self, weights: dict[str, Tensor] | None = None) -> None:
        """Write the product's folder from these weights, or from the present ones."""
        weights = weights or self.optimizer.weights_by_name()
        self.ranks.on_rank_zero(lambda: self.objective.save(self.folder.product, self.loop.network, weights))

    def save_checkpoint(self) -> None:
        metrics_bytes, metrics_crc32 = self.ranks.on_rank_zero(self.folder.metrics.flush)
        values = {
            "step": self.loop.step,
            "tokens": self.loop.tokens,
            "train_seconds": self.loop.seconds,
            "total_seconds": self.total_seconds(),
            "progress": self.loop.schedule.progress(self.loop.step),
            **self.best.state(),
            "windows": self.validation.rows,
            "closing": [self.validation.closing_rows, self.validation.report_rows],
            "micro_batch_size": self.loop.micro_batch_size,
            "check_pending": self.validation_pending,
            "health": self.health.counters(),
            "metrics_bytes": metrics_bytes,
            "metrics_crc32": metrics_crc32,
        }
        self.checkpoints.save(
            self.loop.step, self.optimizer.state(), values, drop_old=self.health.in_a_row == 0
        )

    def rewind_metrics(self, found: Checkpoint) -> None:
        """Have metrics.jsonl as it was at a checkpoint, or what is left of it."""
        size, crc32 = found.values["metrics_bytes"], found.values.get("metrics_crc32")
        told = self.ranks.on_rank_zero(lambda: self.folder.metrics.rewind(size, found.step, crc32))
        if told is not None:
            self.monitor.say(told)

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.folder.lines() if "loss" in line]

    def plot(self) -> None:
        def draw() -> None:
            title = f"{self.folder.path.name}: {self.loop.step:,} steps"
            try:
                self.validation.plot_seconds = self.folder.write_plot(title, self.ranks.clock)
            # Matplotlib's; no run is worth less for it
            except (ImportError, MemoryError, RuntimeError, TypeError, ValueError) as error:
                raise OSError(" ".join(str(error).split())[:100] or type(error).__name__) from None

        self.attempt("the plot", draw)
        self.last_plot = self.ranks.clock()

    def total_seconds(self) -> float:
        return self.elapsed_before + self.ranks.clock() - self.started
