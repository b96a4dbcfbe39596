"""Documents that share a row, each attended to by itself: exact, and without the scores that a mask would
throw away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

# tokens of a document on the average; below, the many small products cost more than a mask does
SHORTEST = 32

Run = tuple[int, int, int]  # row, first position, one after the last


class PackedDocuments:
    """Where each document of `documents` [B, T] stands: each in one piece, none after a later one."""

    def __init__(self, documents: Tensor) -> None:
        begins = torch.ones_like(documents, dtype=torch.bool)
        begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
        index = torch.arange(documents.shape[1], dtype=torch.int32)
        self.count = int(begins.sum())
        # int32 [B, T]: where the document of a token begins
        self.beginnings = torch.where(begins, index, 0).cummax(1).values

    @classmethod
    def of(cls, documents: Tensor) -> PackedDocuments | None:
        """None where a mask is needed: for documents that come back after another; and on GPUs, where it does
        better."""
        if documents.device.type != "cpu" or bool((documents[:, 1:] < documents[:, :-1]).any()):
            return None
        return cls(documents)

    def runs(self, window: int) -> tuple[Run, ...] | None:
        """The documents, row by row; None where a mask does better (see above), or is needed: for a `window`
        narrower than a document."""
        batch, length = self.beginnings.shape
        if self.count > batch * length // SHORTEST or 0 < window < self._longest:
            return None
        return self._runs

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        length, found = self.beginnings.shape[1], []
        for row, beginnings in enumerate(self.beginnings):
            starts = beginnings.unique().tolist()
            found += [(row, start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
        return tuple(found)

    @cached_property
    def _longest(self) -> int:
        return max(end - start for _, start, end in self._runs)


def attend_block_diagonal(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, runs: Sequence[Run]
) -> Tensor:
    """Causal attention [B, H, T, D] inside each run, by a function of q [1, H, n, D] and k, v [1, K, n,
    D]."""
    pieces = []
    for row, start, end in runs:
        pieces.append(attend(*(x[row : row + 1, :, start:end] for x in (q, k, v))))
    batch, heads, length, width = q.shape
    return torch.cat(pieces, dim=2).view(heads, batch, length, width).transpose(0, 1)
