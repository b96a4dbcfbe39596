"""Who sees whom, and where each token stands: causal order, padding, documents and windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def token_positions(
    seen: Tensor | None, documents: Tensor | None, past: int, count: int, device: torch.device
) -> Tensor:
    """Positions [T] of `count` tokens after `past` others; [B, T] where padding or a new document shifts
    them.

    `seen` [B, past + T] is false at padding, or None; `documents` [B, T] numbers each token's document, or
    None.
    """
    index = torch.arange(past, past + count, device=device)
    if documents is not None:
        starts = torch.ones_like(documents, dtype=torch.bool)
        starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
        return index - torch.where(starts, index, 0).cummax(1).values
    if seen is not None and not bool(seen.all()):
        return (seen.cumsum(1) - 1).clamp(min=0)[:, past:]
    return index


def attention_mask(
    seen: Tensor | None, documents: Tensor | None, past: int, count: int, window: int, device: torch.device
) -> Tensor | None:
    """True where a query may look: [1 or B, 1, T, past + T]. None where plain causal attention needs no mask.

    With a `window` above 0, a query sees itself and the `window` − 1 tokens before it, and the mask begins
    with the first token that any query sees: [1 or B, 1, T, S].
    """
    padded = seen is not None and not bool(seen.all())
    narrow = 0 < window < past + count
    if not padded and not narrow and documents is None and (past == 0 or count == 1):
        return None
    query = torch.arange(past, past + count, device=device).unsqueeze(1)
    first = max(0, past + 1 - window) if narrow else 0
    key = torch.arange(first, past + count, device=device)
    mask = (key <= query)[None, None]
    if narrow:
        mask = mask & (key > query - window)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    if padded and seen is not None:
        # Padding sees itself, so that no row of the softmax is empty; nothing real ever sees it.
        mask = mask & (seen[:, None, None, first:] | (key == query))
    return mask


class Masks:
    """The masks of one forward pass, by window, each made when a layer first asks for it."""

    def __init__(self, make: Callable[[int], Tensor | None]) -> None:
        self._make = make
        self._made: dict[int, Tensor | None] = {}

    def __getitem__(self, window: int) -> Tensor | None:
        if window not in self._made:
            self._made[window] = self._make(window)
        return self._made[window]


class Placement(Protocol):
    """Where the tokens of a pass stand, and who sees whom, where that is more than one text after another in
    each row."""

    def longest(self, past: int) -> int:
        """The context that it takes."""

    def positions(self, past: int) -> Tensor:
        """Positions [B, T] after `past` tokens that all rows share."""

    def mask(self, past: int, window: int) -> Tensor | None:
        """True where a query may look: [B, 1, T, S]; as attention_mask otherwise."""


@dataclass(frozen=True)
class Branches:
    """Texts that share a beginning, in one row: a trunk, then branches that each go on from the trunk's end
    and do not see each other.

    `number` [B, T] is 0 for the trunk's tokens, which stand first, and the branch's for the others; each
    branch stands in one piece. It is -1 for what fills a row up.
    """

    number: Tensor

    def longest(self, past: int) -> int:
        return int(self.positions(past).max()) + 1

    def positions(self, past: int) -> Tensor:
        """Positions [B, T] after `past` tokens that all rows share."""
        index = torch.arange(self.number.shape[1], device=self.number.device)
        starts = torch.ones_like(self.number, dtype=torch.bool)
        starts[:, 1:] = self.number[:, 1:] != self.number[:, :-1]
        within = index - torch.where(starts, index, 0).cummax(1).values
        trunk = (self.number == 0).sum(1, keepdim=True)
        return past + torch.where(self.number == 0, index, trunk + within).where(self.number >= 0, 0)

    def mask(self, past: int, window: int) -> Tensor:
        """True where a query may look: [B, 1, T, past + T]."""
        query, key = self.number[:, :, None], self.number[:, None, :]
        count = self.number.shape[1]
        mask = ((key == 0) | (key == query)) & torch.ones(
            count, count, dtype=torch.bool, device=self.number.device
        ).tril()
        if past:
            mask = torch.cat((mask.new_ones(len(mask), count, past), mask), dim=2)
        if window:
            own = self.positions(past)
            before = torch.arange(past, device=own.device).expand(len(own), past)
            mask = mask & (torch.cat((before, own), dim=1)[:, None, :] > own[:, :, None] - window)
        return mask[:, None]
