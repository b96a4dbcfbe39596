"""The one training loop: take a step, write it down, validate now and then, stop when the schedule or the user says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from newleaf.data.batches import Batch
from newleaf.model import GPT
from newleaf.train.optimizer import Optimizer
from newleaf.train.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """One step, done: loss in nats per token, gradient norm before clipping, the share of the peak rate it took."""

    number: int  # from 1
    loss: float
    norm: float
    factor: float
    tokens: int  # all so far
    seconds: float  # of training so far
    progress: float


class Watcher(Protocol):
    """What the loop tells, and asks."""

    def step(self, step: Step) -> None: ...

    def check_due(self, step: Step) -> bool: ...

    def check(self, step: int) -> None: ...

    def stop_requested(self) -> bool: ...


@dataclass
class Loop:
    """Trains `network` on `batch(step)`, which must be a pure function: that is what makes a resumed run the same run."""

    network: GPT
    optimizer: Optimizer
    schedule: Schedule
    batch: Callable[[int], Batch]
    micro_batch_size: int
    seed: int
    watcher: Watcher
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    interrupted: bool = field(default=False, init=False)

    def run(self) -> None:
        """Train to the end of the schedule, or until `watcher.stop_requested()`."""
        self.network.train()
        while self.step == 0 or self.schedule.progress(self.step) < 1:  # a budget that is already spent buys one step
            begin = time.perf_counter()
            factor = self.schedule.factor(self.step)
            loss, counted = self._gradients(self.batch(self.step))
            norm = self.optimizer.step(factor)
            self.step += 1
            self.tokens += counted
            self.seconds += time.perf_counter() - begin
            done = Step(self.step, loss, norm, factor, self.tokens, self.seconds, self.schedule.progress(self.step))
            self.watcher.step(done)
            if self.watcher.stop_requested():
                self.interrupted = True
                return
            if done.progress < 1 and self.watcher.check_due(done):
                self.watcher.check(self.step)
                self.network.train()

    def _gradients(self, batch: Batch) -> tuple[float, int]:
        """Leave the gradients of the mean loss over the batch in the network; returns that loss and the tokens it is of."""
        # Dropout draws from the step's own numbers, so that a resumed run draws the same.
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        device = self.network.device
        counted = int((batch.targets >= 0).sum())
        total = 0.0
        for start in range(0, batch.ids.shape[0], self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            documents = batch.documents[part].to(device) if batch.documents is not None else None
            loss = self.network.loss(batch.ids[part].to(device), batch.targets[part].to(device), documents=documents, reduction="sum")
            (loss / max(1, counted)).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total / max(1, counted), counted
