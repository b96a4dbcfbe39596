"""One pretraining run under way: the loop's watcher, its checks and checkpoints, what it does when something goes wrong, how it ends."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from newleaf.data.batches import TrainBatches
from newleaf.errors import InputError
from newleaf.measure.bits_per_byte import TextLoss
from newleaf.model import GPT
from newleaf.storage.folder import save_folder
from newleaf.train.checkpoint import Checkpoint, Checkpoints
from newleaf.train.disk import announce, folder_bytes
from newleaf.train.ending import finish, leave
from newleaf.train.examiner import Examiner
from newleaf.train.health import Health
from newleaf.train.interrupt import Interrupt
from newleaf.train.layout import Sharded, Whole
from newleaf.train.loop import Loop, Step
from newleaf.train.memory import choose_micro_batch
from newleaf.train.metrics import read_lines
from newleaf.train.monitor import Monitor
from newleaf.train.optimizer import Optimizer
from newleaf.train.prepare import Prepared
from newleaf.train.ranks import Ranks
from newleaf.train.recipe import seconds
from newleaf.train.run_folder import RunFolder
from newleaf.train.schedule import ClockSchedule, ReplaySchedule, Schedule, StepSchedule
from newleaf.train.trouble import skipped_step, why_skipped
from newleaf.version import VERSION

CHECKS = 10  # validations of a run whose recipe does not say
SAMPLE_SHARE = 0.009  # of a timed run, for the text it writes on the way
WORTHWHILE = 0.5  # of the first sample's time: shorter ones wait for the next validation
FIRST_SAMPLE = 0.4  # of that share, for what the untrained network writes
CHECK_SHARE = 0.03  # of a timed run, for the validations on the way
FEWEST_WINDOWS = 16  # of such a validation
PLOT_EVERY = 30.0  # seconds before loss.png is drawn anew
EXIT_SECONDS = 0.4  # what Python takes to end after the last line


class StopRequestedError(Exception):
    """Someone asked to stop while the network was being examined."""


class Session:
    """Watches the loop of one run. `restore` first, to go on from a checkpoint.

    Of several processes each has one, and all do the same: what they measure is the first one's, and only its `folder` writes.
    """

    def __init__(
        self, prepared: Prepared, folder: RunFolder, monitor: Monitor, interrupt: Interrupt, started: float, ranks: Ranks | None = None
    ) -> None:
        self.folder, self.monitor, self.started, self.ranks = folder, monitor, started, ranks or Ranks()
        self.ranks.stopping = lambda: interrupt.requested
        train = prepared.config.train
        torch.manual_seed(train.seed)
        self.device = torch.device(train.device or "cpu")
        network = GPT(prepared.network)
        self.optimizer = self.optimizer_of(network, prepared)
        length, share = prepared.network.context_length, (self.ranks.rank, self.ranks.size)
        batches = TrainBatches(prepared.train, length, train.batch_size, train.seed, prepared.config.data, share)
        self.prepared = self._with_micro_batch(prepared, network, batches)
        train = self.prepared.config.train
        self.replayed_checks: frozenset[int] = frozenset()
        self.clock: ClockSchedule | None = None
        self.windows = 0  # of each validation on the way; the examiner's all_windows make the whole text
        self.loop = Loop(
            network, self.optimizer, self._schedule(batches.windows_per_epoch), batches.batch, train.micro_batch_size, train.seed, self,
            ranks=self.ranks,
        )  # fmt: skip
        self.examiner = Examiner(self.prepared, network, self._heed, self.ranks)
        self.checkpoints = Checkpoints(folder.state, train.keep_checkpoints, self.optimizer.layout)
        self.health = Health()
        self.best: dict[str, float] | None = None
        self.checks_without_gain = 0
        self.check_pending = False  # the last step's check is not done yet
        self.elapsed_before = 0.0
        self.resumed_from = 0
        self.last_progress = 0.0
        self.last_plot: float | None = None
        self.plot_seconds = 0.3
        self.sample_seconds = 0.0
        self.first_sample = 0.0  # seconds

    def optimizer_of(self, network: GPT, prepared: Prepared) -> Optimizer:
        """Lays a new network out over the processes, and takes its weights."""
        train = prepared.config.train
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        network.recompute = train.checkpoint_activations
        layout = Sharded(self.ranks) if train.parallel == "fsdp" and self.ranks.size > 1 else Whole(self.ranks)
        layout.spread(network, self.device, dtype)
        return Optimizer(network, prepared.config.optimizer, dtype, layout)

    def _with_micro_batch(self, prepared: Prepared, network: GPT, batches: TrainBatches) -> Prepared:
        """The windows in memory at once, where the recipe leaves them open: as many as fit, by a step that is measured."""
        train = prepared.config.train
        chosen = train.micro_batch_size
        if not chosen and self.optimizer.layout.in_step:
            raise InputError("train.micro_batch_size: not measured with train.parallel fsdp; say how many windows a process takes at once")
        if not chosen:
            # The moments that AdamW adds in its first step, and fp32 copies of the gradients while it takes one.
            coming = 2 * self.optimizer.full_bytes() - sum(tensor.nbytes for tensor in self.optimizer.state().values())
            chosen, sentence = choose_micro_batch(network, batches.batch(0), coming, self.ranks.local_size)
            if sentence is not None:
                self.monitor.say(sentence)
            chosen = int(self.ranks.of_first(chosen))
        config = dataclasses.replace(prepared.config, train=dataclasses.replace(train, micro_batch_size=chosen))
        return dataclasses.replace(prepared, config=config)

    def _schedule(self, windows_per_epoch: int) -> Schedule:
        train = self.prepared.config.train
        if train.replay is not None:
            try:
                replay = ReplaySchedule.of(read_lines(Path(train.replay)))
            except ValueError as error:
                raise InputError(f"train.replay: {train.replay} {error}") from None
            self.replayed_checks, self.windows = replay.checks, replay.windows
            return replay
        if train.time is not None:
            already = self.ranks.of_first(time.monotonic() - self.started)
            self.clock = ClockSchedule(seconds(train.time), train.schedule, already, self.ranks.now)
            return self.clock
        per_step = train.batch_size * self.prepared.network.context_length
        steps = train.steps or (
            -(-train.tokens // per_step) if train.tokens else round((train.epochs or 1) * windows_per_epoch / train.batch_size)
        )
        return StepSchedule(max(1, steps), train.schedule)

    def announce_disk(self) -> None:
        """Say what the run will write. Raises InputError when the disk has no room for the first of it."""
        already = folder_bytes(self.folder.state) + folder_bytes(self.folder.model)
        model = 4 * self.loop.network.parameter_count()
        keep = self.prepared.config.train.keep_checkpoints
        state = self.optimizer.full_bytes()
        if self.optimizer.layout.in_step:
            state = int(self.ranks.sum(state)[0])
        self.monitor.say(self.ranks.first(lambda: announce(self.folder.path, state, model, keep, already)))

    def restore(self, found: Checkpoint) -> None:
        """Take up a checkpoint: weights, optimizer, counters, the best model, and the metrics as they were then."""
        state = found.values
        self.optimizer.load_state(self.checkpoints.tensors(found.step))
        self.loop.step, self.loop.tokens, self.loop.seconds = state["step"], state["tokens"], state["train_seconds"]
        self.loop.micro_batch_size = state["micro_batch_size"]
        self.best, self.elapsed_before, self.resumed_from = state["best"], state["total_seconds"], state["step"]
        self.last_progress, self.windows = state["progress"], state["windows"]
        self.checks_without_gain, self.check_pending = state["checks_without_gain"], state["check_pending"]
        self.folder.metrics.rewind(state["metrics_bytes"], state["step"])
        self.health.restore(state["health"], self.losses())
        self.loop.rate_scale = self.health.rate_scale
        self.folder.take_back_best()
        if self.clock is not None:
            self.clock.resume(self.elapsed_before, state["progress"])
        self.monitor.say(f"Resumed at step {self.loop.step}.")

    def train(self) -> None:
        """Run the loop to its end and leave the folder finished; when asked to stop, usable and ready to resume."""
        look = True
        try:
            self._choose_windows()
            if self.loop.step == 0:
                self._record_samples(0, self._samples(0))
            if self.check_pending:
                self.check(self.loop.step)
            if not self.out_of_patience():
                self.loop.run()
            if not self.loop.interrupted:
                look = False
                finish(self)
                return
        except StopRequestedError:
            pass
        leave(self, look)

    # What the loop asks and tells.

    def stop_requested(self) -> bool:
        return self.ranks.stop_requested()

    def step(self, step: Step) -> None:
        spike = self.health.hear(step.loss, step.skipped)
        peak = self.prepared.config.optimizer
        rates = {"lr": peak.learning_rate * step.factor, "matrix_lr": peak.matrix_learning_rate * step.factor}
        measured = {name: value for name, value in (("loss", step.loss), ("grad_norm", step.norm)) if math.isfinite(value)}
        marks = {"skipped": why_skipped(step)} if step.skipped else {"spike": True} if spike else {}
        took = {"tokens": step.tokens, "seconds": round(step.seconds, 3)}
        self.folder.record(**({"step": step.number} | measured | {"factor": step.factor} | rates | took | marks))
        left = self.clock.remaining() if self.clock else step.seconds * (1 - step.progress) / max(step.progress, 1e-9)
        self.monitor.step(step, left)
        if step.skipped:
            skipped_step(self, step)

    def smaller_portions(self, windows: int) -> None:
        self.folder.record(step=self.loop.step, micro_batch_size=windows)
        self.monitor.say(f"Out of memory: from now on {windows} windows at once, and more portions a step; the result is the same.")

    def check_due(self, step: Step) -> bool:
        if self.loop.step != step.number:
            return False  # the step was taken back
        before, self.last_progress = self.last_progress, step.progress
        every = self.prepared.config.train.eval_every
        if self.replayed_checks:
            due = step.number in self.replayed_checks
        else:
            due = step.number % every == 0 if every else int(step.progress * CHECKS) > int(before * CHECKS)
        self.check_pending = due or step.progress >= 1
        return self.check_pending

    def check(self, step: int) -> bool:
        """Validate and sample, keep the best weights in model/, write a checkpoint, now and then the plot; False when it is enough.

        Whatever is asked to stop before the first line is recorded; a checkpoint knows all that was recorded before it.
        """
        begin = time.monotonic()
        found = self.examiner.validate(self.windows)
        self.monitor.validation(step, found.bits_per_byte)
        samples = self._samples(step)
        self.record_validation(found)
        self._record_samples(step, samples)
        self.check_pending = False
        self._keep_best(found)
        if self.health.in_a_row == 0:  # what a run of skipped steps goes back to must be from before it
            self.attempt("the checkpoint", self.save_checkpoint)
        if self.clock is not None:
            self._reserve(time.monotonic() - begin)
        if self.last_plot is None or time.monotonic() > self.last_plot + PLOT_EVERY:
            self.plot()
        return not self.out_of_patience()

    # When something goes wrong.

    def _heed(self) -> None:
        self.ranks.sum()
        if self.stop_requested():
            raise StopRequestedError

    def attempt(self, what: str, write: Callable[[], object]) -> bool:
        """Write something that training can go on without, for now; whether it worked."""
        try:
            write()
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            self.monitor.say(f"Warning: {what} of step {self.loop.step} could not be written ({why}); the one before stays as it is.")
            return False
        return True

    def out_of_patience(self) -> bool:
        patience = self.prepared.config.train.patience
        return 0 < patience <= self.checks_without_gain

    # Checks and checkpoints.

    def _choose_windows(self) -> None:
        """By the clock, validations on the way must stay cheap: as many windows as a small share of the time allows, measured once."""
        wanted = self.windows or min(self.prepared.config.train.eval_windows, self.examiner.all_windows)
        if self.clock is not None:
            few = min(FEWEST_WINDOWS, wanted)
            self.examiner.validate(few)
            self.examiner.validate(few)  # the first one warms up
            affordable = int(CHECK_SHARE * self.clock.length / CHECKS / self.examiner.window_seconds)
            wanted = self.windows or min(wanted, max(few, affordable))
            self.windows = wanted
            self._reserve(0.0)
        self.windows = wanted

    def _reserve(self, check_seconds: float) -> None:
        """Keep time for the end: one check more, with a plot, and the whole validation text."""
        assert self.clock is not None
        check_seconds = max(self.ranks.of_first(check_seconds), self.examiner.window_seconds * self.windows)
        whole_text = self.examiner.window_seconds * self.examiner.all_windows
        self.clock.reserve = check_seconds + whole_text + self.ranks.of_first(self.plot_seconds) + EXIT_SECONDS

    def _samples(self, step: int) -> list[tuple[str, str]]:
        """What the network writes for each prompt; in a timed run for a small share of it, so fewer times and at last less."""
        prompts, found = self.prepared.config.train.prompts, []
        done = self.clock.progress(step) if self.clock is not None and step else 0.0
        if self.clock is not None and done < 1 and self._sampling_left(done) < (WORTHWHILE * self.first_sample if step else 0.0):
            return []
        for number, prompt in enumerate(prompts):
            begin = time.monotonic()
            found.append((prompt, self.examiner.sample(prompt, self._sampling_left(done) / (len(prompts) - number))))
            self.sample_seconds += self.ranks.of_first(time.monotonic() - begin)
        self.first_sample = self.first_sample or self.sample_seconds
        return found

    def _sampling_left(self, done: float) -> float:
        """Seconds that samples may take now; without a clock, as long as they take."""
        if self.clock is None:
            return math.inf
        return SAMPLE_SHARE * self.clock.length * (FIRST_SAMPLE + (1 - FIRST_SAMPLE) * done) - self.sample_seconds

    def record_validation(self, found: TextLoss) -> None:
        figures = {"val_loss": found.per_token, "val_bits_per_byte": found.bits_per_byte} if math.isfinite(found.nats) else {}
        self.folder.record(step=self.loop.step, **figures, val_windows=self.windows)

    def _record_samples(self, step: int, samples: list[tuple[str, str]]) -> None:
        for prompt, text in samples:
            self.folder.record(step=step, prompt=prompt, sample=text)
            self.monitor.sample(step, prompt, text)

    def _keep_best(self, found: TextLoss) -> None:
        self.checks_without_gain += 1
        if self.is_best(found) and self.attempt("the model", self.save_model):
            self.best, self.checks_without_gain = self.figures(found), 0

    def is_best(self, found: TextLoss) -> bool:
        return math.isfinite(found.bits_per_byte) and (self.best is None or found.bits_per_byte < self.best["val_bits_per_byte"])

    def figures(self, found: TextLoss) -> dict[str, float]:
        return {"step": self.loop.step, "val_bits_per_byte": found.bits_per_byte, "val_loss": found.per_token}

    def save_model(self) -> None:
        weights, about = self.optimizer.weights_by_name(), {"version": VERSION}
        self.ranks.first(lambda: save_folder(self.folder.model, self.prepared.network, weights, self.prepared.tokenizer, about))

    def save_checkpoint(self) -> None:
        values = {
            "step": self.loop.step,
            "tokens": self.loop.tokens,
            "train_seconds": self.loop.seconds,
            "total_seconds": self.total_seconds(),
            "progress": self.loop.schedule.progress(self.loop.step),
            "best": self.best,
            "windows": self.windows,
            "micro_batch_size": self.loop.micro_batch_size,
            "checks_without_gain": self.checks_without_gain,
            "check_pending": self.check_pending,
            "health": self.health.counters(),
            "metrics_bytes": self.ranks.first(self.folder.metrics.flush),
        }
        self.checkpoints.save(self.loop.step, self.optimizer.state(), values, drop_old=self.health.in_a_row == 0)

    def losses(self) -> list[float]:
        return [line["loss"] for line in self.folder.lines() if "loss" in line]

    def plot(self) -> None:
        begin = time.monotonic()
        self.attempt("the plot", lambda: self.folder.write_plot(f"{self.folder.path.name}: {self.loop.step:,} steps"))
        self.last_plot = time.monotonic()
        self.plot_seconds = self.last_plot - begin

    def total_seconds(self) -> float:
        return self.elapsed_before + time.monotonic() - self.started
