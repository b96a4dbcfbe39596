"""Batches of labelled examples: rows of about the same length together, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from newleaf.data.windows import NO_TARGET
from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.tune.labels.label_tokens import Encoded

# batches whose rows are sorted by length before they are cut apart: little padding, and still much chance
POOL = 32


@dataclass(frozen=True)
class LabelRow:
    """An example to learn from: `answer` is a label's number, or [L] of 0 and 1 with several; `weight` what
    its loss counts."""

    encoded: Encoded
    answer: int | npt.NDArray[np.float32]
    weight: float = 1.0


@dataclass(frozen=True)
class LabelPart:
    """B rows of S sequences: ids and next tokens [S, T], `lengths` [S], and for each sequence the row and the
    place in it, [S].

    `answers` are int64 [B], or fp32 [B, L] with several labels a text; `weights` fp32 [B].
    """

    ids: Tensor
    targets: Tensor
    lengths: Tensor
    owners: Tensor
    places: Tensor
    answers: Tensor
    weights: Tensor


@dataclass(frozen=True)
class LabelBatch:
    """The rows of a step; `language` says whether the loss has the language model's term."""

    examples: Sequence[LabelRow]
    pad_id: int
    language: bool

    @property
    def rows(self) -> int:
        return len(self.examples)

    @property
    def counts(self) -> list[float]:
        weights = sum(
            row.weight * (1 if isinstance(row.answer, int) else len(row.answer)) for row in self.examples
        )
        return [weights, float(self._targets)] if self.language else [weights]

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return sum(len(sequence) for row in self.examples for sequence in row.encoded.sequences)

    @property
    def _targets(self) -> int:
        return sum(len(sequence) - 1 for row in self.examples for sequence in row.encoded.sequences)

    def part(self, start: int, stop: int, device: torch.device) -> LabelPart:
        return collate(self.examples[start:stop], self.pad_id, device)


def collate(rows: Sequence[LabelRow], pad_id: int, device: torch.device) -> LabelPart:
    """Rows as tensors as wide as the longest sequence."""
    sequences = [
        (owner, place, ids)
        for owner, row in enumerate(rows)
        for place, ids in enumerate(row.encoded.sequences)
    ]
    width = max(len(ids) for _, _, ids in sequences)
    ids = np.full((len(sequences), width), pad_id, dtype=np.int64)
    targets = np.full((len(sequences), width), NO_TARGET, dtype=np.int64)
    for number, (_, _, sequence) in enumerate(sequences):
        ids[number, : len(sequence)] = sequence
        targets[number, : len(sequence) - 1] = sequence[1:]
    if isinstance(rows[0].answer, int):
        answers = torch.tensor([row.answer for row in rows])
    else:
        answers = torch.from_numpy(np.stack([row.answer for row in rows]))
    return LabelPart(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(targets).to(device),
        torch.tensor([len(sequence) for _, _, sequence in sequences], device=device),
        torch.tensor([owner for owner, _, _ in sequences], device=device),
        torch.tensor([place for _, place, _ in sequences], device=device),
        answers.to(device),
        torch.tensor([row.weight for row in rows], device=device),
    )


class LabelBatches:
    """Shuffled rows; `batch(step)` follows from (rows, seed, step) alone.

    The fewer than a batch that an epoch leaves over are others each time. `share` = (k, n) gives every n-th
    row of each batch, from the k-th.
    """

    def __init__(
        self,
        rows: Sequence[LabelRow],
        batch_size: int,
        seed: int,
        pad_id: int,
        language: bool,
        share: tuple[int, int],
    ) -> None:
        self._rows, self._seed, self._pad_id, self._language, self._share = (
            rows,
            seed,
            pad_id,
            language,
            share,
        )
        if batch_size % share[1]:
            raise InputError(
                f"train.batch_size: {counted(batch_size, 'row')} cannot be shared by {share[1]} processes "
                f"equally; choose a multiple"
            )
        self._size = batch_size
        self._per_epoch = len(rows) // batch_size
        self._lengths = np.array([row.encoded.length for row in rows])
        # an epoch's order, so that it is made once
        self._kept: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def rows_per_epoch(self) -> int:
        return self._per_epoch * self._size

    def batch(self, step: int) -> LabelBatch:
        epoch, number = divmod(step, self._per_epoch)
        return self._of(self._order(epoch)[number])

    def widest(self) -> LabelBatch:
        return self._of(np.argsort(-self._lengths, kind="stable")[: self._size])

    def _of(self, numbers: npt.NDArray[np.int64]) -> LabelBatch:
        first, every = self._share
        return LabelBatch(
            [self._rows[int(number)] for number in numbers[first::every]], self._pad_id, self._language
        )

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Row numbers [batches, B] of an epoch; in each batch the longest come first."""
        if self._kept is None or self._kept[0] != epoch:
            chance = np.random.default_rng([self._seed, epoch])
            drawn = chance.permutation(len(self._rows))[: self.rows_per_epoch]
            pools = [drawn[at : at + POOL * self._size] for at in range(0, len(drawn), POOL * self._size)]
            sorted_pools = [pool[np.argsort(-self._lengths[pool], kind="stable")] for pool in pools]
            order = np.concatenate(sorted_pools).reshape(self._per_epoch, self._size)
            self._kept = epoch, order[chance.permutation(self._per_epoch)]
        return self._kept[1]
