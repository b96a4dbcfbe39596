"""One pretraining run under way: the loop's watcher, its validations, samples and checkpoints, and how it ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from newleaf.data.batches import TrainBatches, count_windows, validation_batches
from newleaf.data.shards import token_byte_lengths
from newleaf.errors import InputError
from newleaf.families import family_for
from newleaf.generate.runner import PlainRunner
from newleaf.generate.sampling import SamplingConfig
from newleaf.generate.writer import write
from newleaf.measure.bits_per_byte import TextLoss, text_loss
from newleaf.model import GPT
from newleaf.storage.folder import load_folder, save_folder
from newleaf.train.interrupt import Interrupt
from newleaf.train.loop import Loop, Step
from newleaf.train.monitor import Monitor
from newleaf.train.optimizer import Optimizer
from newleaf.train.prepare import Prepared
from newleaf.train.recipe import build, seconds
from newleaf.train.run_folder import RunFolder, read_lines
from newleaf.train.schedule import ClockSchedule, ReplaySchedule, Schedule, StepSchedule
from newleaf.version import VERSION

CHECKS = 10  # validations of a run whose recipe does not say
SAMPLE_SHARE = 0.009  # of a timed run, for the text it writes on the way
WORTHWHILE = 0.5  # of the first sample's time: shorter ones wait for the next validation
FIRST_SAMPLE = 0.4  # of that share, for what the untrained network writes
CHECK_SHARE = 0.03  # of a timed run, for the validations on the way
FEWEST_WINDOWS = 16  # of such a validation
EVAL_TOKENS = 8192  # in one batch of a validation
PLOT_EVERY = 30.0  # seconds before loss.png is drawn anew
EXIT_SECONDS = 0.4  # what Python takes to end after the last line


class Session:
    """Watches the loop of one run. `restore` first, to go on from a checkpoint."""

    def __init__(self, prepared: Prepared, folder: RunFolder, monitor: Monitor, interrupt: Interrupt, started: float) -> None:
        self.prepared, self.folder, self.monitor, self.interrupt, self.started = prepared, folder, monitor, interrupt, started
        train = prepared.config.train
        torch.manual_seed(train.seed)
        self.device = torch.device(train.device or "cpu")
        network = GPT(prepared.network).to(self.device)
        self.optimizer = Optimizer(network, prepared.config.optimizer, torch.bfloat16 if train.precision == "bf16" else torch.float32)
        batches = TrainBatches(prepared.train, prepared.network.context_length, train.batch_size, train.seed, prepared.config.data)
        self.replayed_checks: set[int] = set()
        self.clock: ClockSchedule | None = None
        self.windows = 0  # of each validation on the way; all_windows make the whole text
        self.all_windows = count_windows(prepared.validation, prepared.network.context_length, prepared.config.data)
        self.window_seconds = 0.0
        self.loop = Loop(
            network, self.optimizer, self._schedule(batches.windows_per_epoch), batches.batch, train.micro_batch_size, train.seed, self
        )
        self.byte_lengths = torch.from_numpy(token_byte_lengths(prepared.tokenizer)).long()
        self.best: dict[str, float] | None = None
        self.elapsed_before = 0.0
        self.resumed_from = 0
        self.last_progress = 0.0
        self.last_plot: float | None = None
        self.plot_seconds = 0.3
        self.sample_seconds = 0.0
        self.first_sample = 0.0  # seconds

    def _schedule(self, windows_per_epoch: int) -> Schedule:
        train = self.prepared.config.train
        if train.replay is not None:
            lines = list(read_lines(Path(train.replay)))
            factors = [line["factor"] for line in lines if "factor" in line]
            checks = [line for line in lines if "val_windows" in line]
            if not factors or not checks:
                raise InputError(f"train.replay: {train.replay} holds no steps to take again")
            self.replayed_checks, self.windows = {line["step"] for line in checks}, checks[0]["val_windows"]
            return ReplaySchedule(factors)
        if train.time is not None:
            self.clock = ClockSchedule(seconds(train.time), train.schedule, time.monotonic() - self.started)
            return self.clock
        per_step = train.batch_size * self.prepared.network.context_length
        steps = train.steps or (
            -(-train.tokens // per_step) if train.tokens else round((train.epochs or 1) * windows_per_epoch / train.batch_size)
        )
        return StepSchedule(max(1, steps), train.schedule)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up a checkpoint: weights, optimizer, counters, and the metrics as they were then."""
        self.optimizer.load_state(tensors)
        self.loop.step, self.loop.tokens, self.loop.seconds = state["step"], state["tokens"], state["train_seconds"]
        self.best, self.elapsed_before, self.resumed_from = state["best"], state["total_seconds"], state["step"]
        self.last_progress, self.windows = state["progress"], state["windows"]
        self.folder.rewind(state["step"])
        if self.clock is not None:
            self.clock.resume(self.elapsed_before, state["progress"])
        self.monitor.say(f"Resumed at step {self.loop.step}.")

    def train(self) -> None:
        """Run the loop to its end and leave the folder finished; after Ctrl-C, usable and ready to resume."""
        self._choose_windows()
        if self.loop.step == 0:
            self._sample(0)
        self.loop.run()
        self._check(last=True)

    # What the loop asks and tells.

    def stop_requested(self) -> bool:
        return self.interrupt.requested

    def step(self, step: Step) -> None:
        if not torch.isfinite(torch.tensor(step.loss)):
            raise InputError(f"the loss is {step.loss} at step {step.number}; lower optimizer.learning_rate and matrix_learning_rate")
        peak = self.prepared.config.optimizer
        rates = {"lr": peak.learning_rate * step.factor, "matrix_lr": peak.matrix_learning_rate * step.factor}
        self.folder.record(
            step=step.number,
            loss=step.loss,
            factor=step.factor,
            **rates,
            grad_norm=step.norm,
            tokens=step.tokens,
            seconds=round(step.seconds, 3),
        )
        left = self.clock.remaining() if self.clock else step.seconds * (1 - step.progress) / max(step.progress, 1e-9)
        self.monitor.step(step, left)

    def check_due(self, step: Step) -> bool:
        if self.replayed_checks:
            return step.number in self.replayed_checks
        every = self.prepared.config.train.eval_every
        if every:
            return step.number % every == 0
        before, self.last_progress = self.last_progress, step.progress
        return int(step.progress * CHECKS) > int(before * CHECKS)

    def check(self, step: int) -> None:
        self._check(last=False)

    # Validations, samples, checkpoints, the end.

    def _check(self, last: bool) -> None:
        """Validate, keep the best weights in model/, write the state and the plot. `last` ends the run."""
        begin = time.monotonic()
        found = self._validate(self.windows)
        self.folder.record(step=self.loop.step, val_loss=found.per_token, val_bits_per_byte=found.bits_per_byte, val_windows=self.windows)
        self.monitor.validation(self.loop.step, found.bits_per_byte)
        if self.best is None or found.bits_per_byte < self.best["val_bits_per_byte"]:
            self.best = {"step": self.loop.step, "val_bits_per_byte": found.bits_per_byte, "val_loss": found.per_token}
            self._save_model()
        self._save_state()
        if last or self.last_plot is None or time.monotonic() > self.last_plot + PLOT_EVERY:
            drawn = time.monotonic()
            self.folder.write_plot(f"{self.folder.path.name}: {self.loop.step:,} steps")
            self.last_plot = time.monotonic()
            self.plot_seconds = self.last_plot - drawn
        if self.clock is not None:
            self._reserve(time.monotonic() - begin)
        self._sample(self.loop.step)
        if last:
            self._finish()

    def _choose_windows(self) -> None:
        """By the clock, validations on the way must stay cheap: as many windows as a small share of the time allows, measured once."""
        wanted = self.windows or min(self.prepared.config.train.eval_windows, self.all_windows)
        if self.clock is not None:
            few = min(FEWEST_WINDOWS, wanted)
            self._validate(few)
            begin = time.monotonic()
            self._validate(few)
            self.window_seconds = (time.monotonic() - begin) / few
            affordable = int(CHECK_SHARE * self.clock.length / CHECKS / self.window_seconds)
            wanted = self.windows or min(wanted, max(few, affordable))
            self._reserve(0.0)
        self.windows = wanted

    def _reserve(self, check_seconds: float) -> None:
        """Keep time for the end: one check more, with a plot, and the whole validation text."""
        assert self.clock is not None
        check_seconds = max(check_seconds, self.window_seconds * self.windows + self.plot_seconds)
        self.clock.reserve = check_seconds + self.window_seconds * self.all_windows + EXIT_SECONDS

    def _validate(self, windows: int | None) -> TextLoss:
        length, data = self.prepared.network.context_length, self.prepared.config.data
        batches = validation_batches(self.prepared.validation, length, max(1, EVAL_TOKENS // length), data, windows)
        return text_loss(self.loop.network, batches, self.byte_lengths)

    def _save_model(self) -> None:
        save_folder(
            self.folder.model, self.prepared.network, self.optimizer.weights_by_name(), self.prepared.tokenizer, {"version": VERSION}
        )

    def _save_state(self) -> None:
        values = {
            "step": self.loop.step,
            "tokens": self.loop.tokens,
            "train_seconds": self.loop.seconds,
            "total_seconds": self._total_seconds(),
            "progress": self.loop.schedule.progress(self.loop.step),
            "best": self.best,
            "windows": self.windows,
        }
        self.folder.save_state(self.optimizer.state(), values)

    def _total_seconds(self) -> float:
        return self.elapsed_before + time.monotonic() - self.started

    def _sample(self, step: int) -> None:
        """Write a few words for each prompt; in a timed run for a small share of it, so fewer times and at last less."""
        train = self.prepared.config.train
        config = build(SamplingConfig, {"max_tokens": 60, "seed": train.seed} | train.sample, "train.sample.")
        done = self.clock.progress(step) if self.clock is not None and step else 0.0
        if self.clock is not None and done < 1 and self._sampling_left(done) < (WORTHWHILE * self.first_sample if step else 0.0):
            return
        for number, prompt in enumerate(train.prompts):
            begin = time.monotonic()
            each = self._sampling_left(done) / (len(train.prompts) - number)
            text = ""
            for piece in write(PlainRunner(self.loop.network), self.prepared.tokenizer, prompt, config):
                text += piece.text
                if time.monotonic() - begin > each:
                    break
            self.sample_seconds += time.monotonic() - begin
            self.folder.record(step=step, prompt=prompt, sample=text)
            self.monitor.sample(step, prompt, text)
        self.first_sample = self.first_sample or self.sample_seconds

    def _sampling_left(self, done: float) -> float:
        """Seconds that samples may take now; without a clock, as long as they take."""
        if self.clock is None:
            return float("inf")
        return SAMPLE_SHARE * self.clock.length * (FIRST_SAMPLE + (1 - FIRST_SAMPLE) * done) - self.sample_seconds

    def _finish(self) -> None:
        """summary.json: the figures of model/, over the whole validation text unless the user asked to stop."""
        assert self.best is not None
        if not self.loop.interrupted:
            if self.best["step"] != self.loop.step:
                best = load_folder(self.folder.model).network.state_dict()
                self.loop.network.load_state_dict(best)
            if self.windows < self.all_windows:
                found = self._validate(None)
                self.best |= {"val_bits_per_byte": found.bits_per_byte, "val_loss": found.per_token}
        family = family_for(self.prepared.network)
        self.folder.write_summary(
            {
                "finished": not self.loop.interrupted,
                "val_bits_per_byte": self.best["val_bits_per_byte"],
                "val_loss": self.best["val_loss"],
                "best_step": self.best["step"],
                "steps": self.loop.step,
                "tokens_seen": self.loop.tokens,
                "train_seconds": round(self.loop.seconds, 3),
                "total_seconds": round(self._total_seconds(), 3),
                "tokens_per_second": round(self.loop.tokens / max(self.loop.seconds, 1e-9), 1),
                "parameters": self.loop.network.parameter_count(),
                "family": family.name if family else "newleaf",
                "resumed_from_step": self.resumed_from,
                "version": VERSION,
            }
        )
