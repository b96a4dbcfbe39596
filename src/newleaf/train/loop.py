"""The one training loop: take a step, write it down, validate now and then, stop when the schedule or the user says so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from newleaf.data.batches import Batch
from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.train.optimizer import Optimizer
from newleaf.train.ranks import Ranks
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

    @property
    def skipped(self) -> bool:
        """Whether loss or gradients were not finite, so that weights and moments stayed as they were."""
        return not (math.isfinite(self.loss) and math.isfinite(self.norm))


class Watcher(Protocol):
    """What the loop tells, and asks."""

    def step(self, step: Step) -> None:
        """A step is done. May set the loop back to an earlier one."""

    def check_due(self, step: Step) -> bool:
        """Whether to `check` after this step, as after the last."""

    def check(self, step: int) -> bool:
        """Look at the network; False ends the run."""

    def smaller_portions(self, windows: int) -> None:
        """The device ran out of memory, and from now on takes this many windows at once."""

    def stop_requested(self) -> bool: ...


@dataclass
class Loop:
    """Trains `network` on `batch(step)`, which must be a pure function: that is what makes a resumed run the same run.

    With several processes, `batch(step)` is this one's share.
    """

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
    rate_scale: float = 1.0  # of every rate that the schedule gives
    ranks: Ranks = field(default_factory=Ranks)
    interrupted: bool = field(default=False, init=False)

    def run(self) -> None:
        """Train to the end of the schedule, or until `watcher.check()` says it is enough or `watcher.stop_requested()`."""
        self.network.train()
        while self.step == 0 or self.schedule.progress(self.step) < 1:  # a budget that is already spent buys one step
            if self.watcher.stop_requested():
                self.interrupted = True
                return
            done = self._step()
            self.watcher.step(done)
            if self.watcher.check_due(done):
                if not self.watcher.check(self.step):
                    return
                self.network.train()

    def _step(self) -> Step:
        begin = time.perf_counter()
        factor = self.schedule.factor(self.step) * self.rate_scale
        loss, counted = self._gradients(self.batch(self.step))
        if math.isfinite(loss):
            norm = self.optimizer.step(factor)
        else:
            norm = math.nan
            self.optimizer.clear()
        self.step += 1
        self.tokens += counted
        self.seconds += time.perf_counter() - begin
        return Step(self.step, loss, norm, factor, self.tokens, self.seconds, self.schedule.progress(self.step))

    def _gradients(self, batch: Batch) -> tuple[float, int]:
        """Leave the gradients of the mean loss over the batch in the network; returns that loss and the tokens it is of.

        A device that runs out of memory gets half the windows at once, and twice as many portions.
        """
        counted = int(self.ranks.sum(int((batch.targets >= 0).sum()))[0])
        total = self._all_portions(batch, max(1, counted))
        self.optimizer.layout.add_up(self.network)
        return self.ranks.sum(total)[0] / max(1, counted), counted

    def _all_portions(self, batch: Batch, counted: int) -> float:
        while True:
            try:
                return self._portions(batch, counted)
            except torch.OutOfMemoryError:
                if self.optimizer.layout.in_step:  # the others would wait for this one's next portion
                    raise InputError("the device's memory does not hold a portion; give a smaller train.micro_batch_size") from None
                if self.micro_batch_size == 1:
                    raise InputError("the device's memory does not hold a single window; make the model or the context smaller") from None
            self.optimizer.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.micro_batch_size = (self.micro_batch_size + 1) // 2
            self.watcher.smaller_portions(self.micro_batch_size)

    def _portions(self, batch: Batch, counted: int) -> float:
        """The sum of the losses here; leaves their gradients, divided by `counted`, in the network."""
        # Dropout draws from the step's own numbers, so that a resumed run draws the same.
        torch.manual_seed(self.seed * 1_000_003 + self.step + self.ranks.rank * 1_000_000_007)
        device, layout = self.network.device, self.optimizer.layout
        total = 0.0
        for start in range(0, batch.ids.shape[0], self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            documents = batch.documents[part].to(device) if batch.documents is not None else None
            loss = self.network.loss(batch.ids[part].to(device), batch.targets[part].to(device), documents=documents, reduction="sum")
            layout.share_of_loss(loss / counted).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total
