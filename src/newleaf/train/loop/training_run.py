"""What a run consists of, and what it writes: checkpoints, the model, the metrics, the plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.distributed.sharding import Replicated, Sharded
from newleaf.train.loop.loop import Loop, LoopCallbacks
from newleaf.train.loop.loss_health import LossHealth
from newleaf.train.loop.micro_batch import choose_micro_batch
from newleaf.train.loop.optimizer import Optimizer
from newleaf.train.loop.run_state import RunState
from newleaf.train.loop.validation import Validation
from newleaf.train.objective.objective import Batches, Objective, ValidationMetrics
from newleaf.train.objective.schedule import ClockSchedule, ReplaySchedule, ScheduleShape
from newleaf.train.runs.checkpoint import Checkpoint, Checkpoints
from newleaf.train.runs.disk_space import describe_disk_use, folder_bytes
from newleaf.train.runs.run_folder import RunFolder
from newleaf.train.runs.run_length import StepSize, build_schedule
from newleaf.train.size_from_budget import USEFUL_SHARE


class TrainingRun:
    """The parts of one run, built from its objective, and the one `state` that they share.

    Of several processes each has one, and all do the same. What they measure is the first one's, and only
    its `folder` writes.
    """

    def __init__(
        self, objective: Objective, folder: RunFolder, monitor: Monitor, started: float, ranks: Ranks,
        matrix_speed: float, watcher: LoopCallbacks, check_stop: Callable[[], None],
    ) -> None:  # fmt: skip
        """`matrix_speed` is the machine's, FLOP/s: it predicts the first step of a timed run."""
        self.objective, self.folder, self.monitor, self.started = objective, folder, monitor, started
        self.ranks, self.matrix_speed = ranks, matrix_speed
        self.state = RunState()
        self.clock: ClockSchedule | None = None
        train = objective.train
        torch.manual_seed(train.seed)
        network = objective.build()
        folder.product = folder.path / objective.product
        self.optimizer = self.build_optimizer(network)
        batches = objective.batches((ranks.rank, ranks.size))
        micro_batch_size = train.micro_batch_size or self._measured_micro_batch(network, batches)
        size = StepSize(train.batch_size, train.batch_size * objective.row_tokens, batches.rows_per_epoch)
        self.schedule = build_schedule(train, size, self._clock_schedule)
        self.loop = Loop(
            network, self.optimizer, self.schedule, batches.batch, micro_batch_size, train.seed, watcher,
            state=self.state, ranks=ranks, losses=objective.losses, terms=objective.terms,
        )  # fmt: skip
        self.validation = Validation(objective, network, check_stop, ranks, self.clock, folder, monitor)
        if isinstance(self.schedule, ReplaySchedule):
            self.validation.set_rows(self.schedule.windows, self.schedule.closing)
        self.checkpoints = Checkpoints(folder.state, train.keep_checkpoints, self.optimizer.layout)
        self.health = LossHealth()
        self.resumed_from = 0

    def build_optimizer(self, network: nn.Module) -> Optimizer:
        """Lay a new network out over the processes, and take its weights."""
        train = self.objective.train
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        sharded = train.parallel == "fsdp" and self.ranks.size > 1
        layout = Sharded(self.ranks) if sharded else Replicated(self.ranks)
        layout.spread(network, torch.device(train.device or "cpu"), dtype)
        return Optimizer(network, self.objective.optimizer, dtype, layout)

    def _measured_micro_batch(self, network: nn.Module, batches: Batches) -> int:
        """The rows in memory at once, where the recipe leaves them open: as many as a measured step fits."""
        if self.optimizer.layout.in_step:
            raise InputError(
                "train.micro_batch_size: not measured with train.parallel fsdp; say how many windows a "
                "process takes at once"
            )
        # The moments that AdamW adds in its first step, and fp32 copies of the gradients while it takes one.
        held = sum(tensor.nbytes for tensor in self.optimizer.state().values())
        coming = 2 * self.optimizer.full_bytes() - held
        chosen, sentence = choose_micro_batch(
            network, batches.widest(), coming, self.ranks.local_size, self.objective.losses
        )
        if sentence is not None:
            self.monitor.say(sentence)
        return int(self.ranks.from_rank_zero(chosen))

    def _clock_schedule(self, length: float, shape: ScheduleShape) -> ClockSchedule:
        """A schedule that follows the clock of the first process, which began before this."""
        already = self.ranks.from_rank_zero(self.ranks.clock() - self.started)
        self.clock = ClockSchedule(length, shape, already, self.ranks.now)
        flops = self.objective.flops_per_token * self.objective.train.batch_size * self.objective.row_tokens
        predicted = flops / (USEFUL_SHARE * self.matrix_speed) if self.matrix_speed else 0.0
        self.clock.step_seconds = self.ranks.from_rank_zero(predicted)
        return self.clock

    def total_seconds(self) -> float:
        """Of the command that began the run, and of those that resumed it."""
        return self.state.total_seconds + self.ranks.clock() - self.started

    def with_step(self, found: ValidationMetrics) -> ValidationMetrics:
        return {"step": self.state.step, **found}

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.folder.lines() if "loss" in line]

    # What is written.

    def announce_disk(self) -> None:
        """Say what the run will write. Raises InputError when the disk has no space for the first of it."""
        already = folder_bytes(self.folder.state) + folder_bytes(self.folder.product)
        model = 4 * sum(weight.numel() for weight in self.optimizer.weights.values())
        keep = self.objective.train.keep_checkpoints
        state = self.optimizer.full_bytes()
        if self.optimizer.layout.in_step:
            state = int(self.ranks.sum(state)[0])
        self.monitor.say(
            self.ranks.on_rank_zero(lambda: describe_disk_use(self.folder.path, state, model, keep, already))
        )

    def attempt(self, what: str, write: Callable[[], object], step: int | None = None) -> bool:
        """Write something that training can go on without; whether it worked.

        It is of the last step, or of `step`.
        """
        try:
            write()
        except OSError as error:
            why, number = (error.strerror or str(error)).lower(), self.state.step if step is None else step
            self.monitor.say(
                f"Warning: {what} of step {number} could not be written ({why}); the one before stays as it "
                f"is."
            )
            return False
        return True

    def save_model(self, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model's folder from these weights, or from the present ones."""
        weights = weights or self.optimizer.weights_by_name()
        self.ranks.on_rank_zero(lambda: self.objective.save(self.folder.product, self.loop.network, weights))

    def save_checkpoint(self) -> None:
        """Write what a resumed run needs to go on bit for bit."""
        metrics_bytes, metrics_crc32 = self.ranks.on_rank_zero(self.folder.metrics.flush)
        progress = self.schedule.progress(self.state.step)  # now: a clock went on since the last step
        values = {
            **replace(self.state, total_seconds=self.total_seconds(), progress=progress).state_dict(),
            **self.validation.state_dict(),
            "micro_batch_size": self.loop.micro_batch_size,
            "health": self.health.state_dict(),
            "metrics_bytes": metrics_bytes,
            "metrics_crc32": metrics_crc32,
        }
        self.checkpoints.save(
            self.state.step, self.optimizer.state(), values, drop_old=self.health.in_a_row == 0
        )

    def rewind_metrics(self, found: Checkpoint) -> None:
        """Have metrics.jsonl as it was at a checkpoint, or what is left of it."""
        size, crc32 = found.values["metrics_bytes"], found.values.get("metrics_crc32")
        damage = self.ranks.on_rank_zero(lambda: self.folder.metrics.rewind(size, found.step, crc32))
        if damage is not None:
            self.monitor.say(damage)

    def plot(self) -> None:
        """Draw loss.png anew."""

        def draw() -> None:
            title = f"{self.folder.path.name}: {self.state.step:,} steps"
            try:
                self.validation.plot_seconds = self.folder.write_plot(title, self.ranks.clock)
            # Matplotlib's own errors: a run does not end for want of a plot
            except (ImportError, MemoryError, RuntimeError, TypeError, ValueError) as error:
                raise OSError(" ".join(str(error).split())[:100] or type(error).__name__) from None

        self.attempt("the plot", draw)
