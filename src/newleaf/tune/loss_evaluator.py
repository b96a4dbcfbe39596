"""The validation that most tasks have: the terms of their loss over rows that are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Batch, SampledText, Term, ValidationMetrics

Losses = Callable[[nn.Module, Any], Sequence[Tensor]]


class HeldOut(Protocol):
    """Rows for validation."""

    def __len__(self) -> int: ...

    def rows(self, numbers: Sequence[int]) -> Batch:
        """These rows as a batch."""


class LossEvaluator:
    """`val_loss` is the weighted loss over the rows.

    Where it has several terms, each is there as `val_` and its name.

    Several processes share the rows. `check_stop` is called between batches and ends the asking by raising.
    """

    reports = False
    prompts: Sequence[str] = ()

    def __init__(
        self,
        network: nn.Module,
        held_out: HeldOut,
        losses: Losses,
        terms: Sequence[Term],
        at_once: int,
        check_stop: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        self.network, self.held_out, self.losses, self.terms = network, held_out, losses, terms
        self.at_once, self.check_stop, self.ranks = max(1, at_once), check_stop, ranks
        self.all_rows = len(held_out)

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """The loss over this many rows, evenly spaced, or over all."""
        numbers = evenly(self.all_rows, rows)
        chunks = [numbers[start : start + self.at_once] for start in range(0, len(numbers), self.at_once)]
        sums, counts = np.zeros(len(self.terms)), np.zeros(len(self.terms))
        with evaluating(self.network):
            for first in range(0, len(chunks), self.ranks.size):
                if not to_the_end:
                    self.check_stop()
                place = first + self.ranks.rank
                # whoever has none left takes the last, for nothing
                batch = self.held_out.rows(chunks[min(place, len(chunks) - 1)])
                device = next(self.network.parameters()).device
                found = self.losses(self.network, batch.part(0, batch.rows, device))
                if place < len(chunks):
                    sums += [float(term) for term in found]
                    counts += batch.counts
        totals = self.ranks.sum(*sums.tolist(), *counts.tolist())
        count = len(self.terms)
        means = [total / (size or 1) for total, size in zip(totals[:count], totals[count:], strict=True)]
        loss = sum(term.weight * mean for term, mean in zip(self.terms, means, strict=True))
        named = (
            {f"val_{term.name}": mean for term, mean in zip(self.terms, means, strict=True)}
            if count > 1
            else {}
        )
        return {"val_loss": loss} | named

    def prompts_at(self, check: int) -> Sequence[str]:
        """The same each time, so that samples can be compared."""
        return self.prompts

    def sample(self, prompt: str, seconds: float) -> SampledText:
        """This task writes nothing."""
        return SampledText("", writes=False)

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        """Nothing beside the figures."""
        return {}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network without dropout and gradients, for a while."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def evenly(count: int, wanted: int | None) -> list[int]:
    """`wanted` numbers below `count`, evenly spaced; all of them for None."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [int(number) for number in np.linspace(0, count - 1, max(1, wanted)).round()]
