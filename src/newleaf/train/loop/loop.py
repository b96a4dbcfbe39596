"""The one training loop: take a step, write it down, validate now and then, stop when the schedule or the
user says so."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.optimizer import Optimizer
from newleaf.train.loop.run_state import RunState
from newleaf.train.objective.objective import Batch, Term
from newleaf.train.objective.schedule import Schedule
from newleaf.train.objective.training_step import Step


class LoopCallbacks(Protocol):
    """What the loop tells, and asks."""

    def step(self, step: Step) -> None:
        """A step is done. May set the loop back to an earlier one."""

    def validation_due(self, step: Step) -> bool:
        """Whether to `check` after this step, as after the last."""

    def check(self, step: int) -> bool:
        """Look at the network; False ends the run."""

    def reduce_micro_batch(self, windows: int) -> None:
        """The device ran out of memory, and from now on takes this many windows at once."""

    def stop_requested(self) -> bool: ...


NEXT_TOKEN = (Term("loss"),)


def next_token_losses(network: Any, part: Any) -> Sequence[Tensor]:
    """The sum of the losses of a part of a `data.batches.Batch`: the one term of training on text."""
    return (network.loss(part.ids, part.targets, documents=part.documents, reduction="sum"),)


@dataclass
class Loop:
    """Trains `network` on `batch(step)`, which must be a pure function: that is what makes a resumed run the
    same run.

    With several processes, `batch(step)` is this one's share. `losses` gives the sum of each of `terms` over
    a part of a batch.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: Schedule
    batch: Callable[[int], Batch]
    micro_batch_size: int
    seed: int
    watcher: LoopCallbacks
    state: RunState = field(default_factory=RunState)
    rate_scale: float = 1.0  # of every rate that the schedule gives
    ranks: Ranks = field(default_factory=Ranks)
    losses: Callable[[nn.Module, Any], Sequence[Tensor]] = next_token_losses
    terms: Sequence[Term] = NEXT_TOKEN
    interrupted: bool = field(default=False, init=False)

    def run(self) -> None:
        """Train to the end of the schedule, or until `watcher.check()` says it is enough or
        `watcher.stop_requested()`."""
        self.network.train()
        # a budget that is already spent buys one step
        while self.state.step == 0 or self.schedule.progress(self.state.step) < 1:
            if self.watcher.stop_requested():
                self.interrupted = True
                return
            done = self._step()
            self.watcher.step(done)
            if self.watcher.validation_due(done):
                if not self.watcher.check(self.state.step):
                    return
                self.network.train()

    def _step(self) -> Step:
        begin, state = time.perf_counter(), self.state
        factor = self.schedule.factor(state.step) * self.rate_scale
        means, tokens = self._gradients(self.batch(state.step))
        loss = sum(term.weight * mean for term, mean in zip(self.terms, means, strict=True) if term.weight)
        if math.isfinite(loss):
            norm = self.optimizer.step(factor)
        else:
            norm = math.nan
            self.optimizer.clear()
        state.step += 1
        state.tokens += tokens
        state.seconds += time.perf_counter() - begin
        named = {term.name: mean for term, mean in zip(self.terms, means, strict=True)}
        return Step(
            state.step, loss, norm, factor, state.tokens, state.seconds, self.schedule.progress(state.step),
            named if len(named) > 1 else {},
        )  # fmt: skip

    def _gradients(self, batch: Batch) -> tuple[list[float], int]:
        """Leave the gradients of the loss over the batch in the network.

        Returns the mean of each term, and the tokens it is of.

        A device that runs out of memory gets half the rows at once, and twice as many micro-batches.
        """
        *counts, tokens = self.ranks.sum(*batch.counts, batch.tokens)
        counts = [count or 1 for count in counts]
        totals = self._all_micro_batches(batch, counts)
        self.optimizer.layout.reduce_gradients(self.network)
        return [total / count for total, count in zip(self.ranks.sum(*totals), counts, strict=True)], int(
            tokens
        )

    def _all_micro_batches(self, batch: Batch, counts: Sequence[float]) -> list[float]:
        while True:
            try:
                return self._micro_batches(batch, counts)
            except torch.OutOfMemoryError:
                if self.optimizer.layout.in_step:  # the others would wait for this one's next micro-batch
                    raise InputError(
                        "the device's memory does not hold a micro-batch; give a smaller "
                        "train.micro_batch_size"
                    ) from None
                if self.micro_batch_size == 1:
                    raise InputError(
                        "the device's memory does not hold a single window; make the model or the context "
                        "smaller"
                    ) from None
            self.optimizer.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.micro_batch_size = (self.micro_batch_size + 1) // 2
            self.watcher.reduce_micro_batch(self.micro_batch_size)

    def _micro_batches(self, batch: Batch, counts: Sequence[float]) -> list[float]:
        """The sum of each term here; leaves the gradients of the loss, each term divided by its count, in the
        network."""
        # Dropout draws from the step's own numbers, so that a resumed run draws the same.
        torch.manual_seed(self.seed * 1_000_003 + self.state.step + self.ranks.rank * 1_000_000_007)
        device, layout = next(self.network.parameters()).device, self.optimizer.layout
        totals = [0.0] * len(self.terms)
        for start in range(0, batch.rows, self.micro_batch_size):
            sums = self.losses(self.network, batch.part(start, start + self.micro_batch_size, device))
            layout.scale_loss(weighted_loss(self.terms, sums, counts)).backward()  # type: ignore[no-untyped-call]
            totals = [total + found.item() for total, found in zip(totals, sums, strict=True)]
        return totals


def weighted_loss(terms: Sequence[Term], sums: Sequence[Tensor], counts: Sequence[float]) -> Tensor:
    """The loss: each term's sum divided by its count, times its weight."""
    parts = [
        found / count * term.weight
        for term, found, count in zip(terms, sums, counts, strict=True)
        if term.weight
    ]
    return torch.stack(parts).sum() if len(parts) > 1 else parts[0]
