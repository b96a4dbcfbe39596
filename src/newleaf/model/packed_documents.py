"""Documents that share a row, where each can be attended to by itself, without a mask."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

MIN_MEAN_LENGTH = 32  # tokens of a document; with shorter ones, many small products cost more than a mask

Span = tuple[int, int, int]  # row, first position, one after the last


class PackedDocuments:
    """Where each document of `documents` [B, T] stands: every one contiguous, none after a later one."""

    def __init__(self, documents: Int[Tensor, "B T"]) -> None:
        is_first = torch.ones_like(documents, dtype=torch.bool)
        is_first[:, 1:] = documents[:, 1:] != documents[:, :-1]
        index = torch.arange(documents.shape[1], dtype=torch.int32)
        self.count = int(is_first.sum())
        # int32 [B, T]: the position at which a token's document starts
        self.starts = torch.where(is_first, index, 0).cummax(1).values

    @classmethod
    def of(cls, documents: Int[Tensor, "B T"]) -> PackedDocuments | None:
        """None where a mask is needed, since a document comes back after another, or is faster, on GPUs."""
        if documents.device.type != "cpu" or bool((documents[:, 1:] < documents[:, :-1]).any()):
            return None
        return cls(documents)

    def spans(self, window: int) -> tuple[Span, ...] | None:
        """The documents, row by row; None where a mask is faster, or a document is longer than `window`."""
        batch, length = self.starts.shape
        if self.count > batch * length // MIN_MEAN_LENGTH or 0 < window < self._max_length:
            return None
        return self._spans

    @cached_property
    def _spans(self) -> tuple[Span, ...]:
        length, spans = self.starts.shape[1], []
        for row, starts_of_row in enumerate(self.starts):
            starts = starts_of_row.unique().tolist()
            spans += [(row, start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]
        return tuple(spans)

    @cached_property
    def _max_length(self) -> int:
        return max(end - start for _, start, end in self._spans)
