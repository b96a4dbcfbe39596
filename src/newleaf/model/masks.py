"""Token positions and attention masks: causal order, padding, documents, windows and branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def token_positions(
    seen: Bool[Tensor, "B past+T"] | None,
    documents: Int[Tensor, "B T"] | None,
    past: int,
    count: int,
    device: torch.device,
) -> Int[Tensor, " T"] | Int[Tensor, "B T"]:
    """Positions of `count` tokens after `past` others; by row where padding or a new document shifts them.

    `seen` is false at padding; `documents` numbers each token's document.
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
    seen: Bool[Tensor, "B past+T"] | None,
    documents: Int[Tensor, "B T"] | None,
    past: int,
    count: int,
    window: int,
    device: torch.device,
) -> Bool[Tensor, "B 1 T S"] | None:
    """True where a query sees a key; B may be 1. None where plain causal attention needs no mask.

    S is past + T. With a `window` above 0, a query sees itself and the `window` − 1 tokens before it, and
    keys start with the first that any query sees.
    """
    is_padded = seen is not None and not bool(seen.all())
    is_windowed = 0 < window < past + count
    if not is_padded and not is_windowed and documents is None and (past == 0 or count == 1):
        return None
    query = torch.arange(past, past + count, device=device).unsqueeze(1)
    first = max(0, past + 1 - window) if is_windowed else 0
    key = torch.arange(first, past + count, device=device)
    mask = (key <= query)[None, None]
    if is_windowed:
        mask = mask & (key > query - window)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    if is_padded and seen is not None:
        # Padding sees itself, so that no row of the softmax is empty; no real token sees it.
        mask = mask & (seen[:, None, None, first:] | (key == query))
    return mask


class Masks:
    """The masks of one forward pass by window, each built when a layer first asks for it."""

    def __init__(self, build: Callable[[int], Tensor | None]) -> None:
        self._build = build
        self._built: dict[int, Tensor | None] = {}

    def __getitem__(self, window: int) -> Bool[Tensor, "B 1 T S"] | None:
        if window not in self._built:
            self._built[window] = self._build(window)
        return self._built[window]


class Placement(Protocol):
    """Positions and masks of a pass whose rows are not simply one text each."""

    def context_needed(self, past: int) -> int:
        """The context length that it needs."""

    def positions(self, past: int) -> Int[Tensor, "B T"]:
        """Positions after `past` tokens that all rows share."""

    def mask(self, past: int, window: int) -> Bool[Tensor, "B 1 T S"] | None:
        """True where a query sees a key; as `attention_mask` otherwise."""


@dataclass(frozen=True)
class Branches:
    """Texts with a common prefix in one row: a trunk, then branches that do not see each other.

    `number` is 0 for the trunk's tokens, which come first, and the branch's for the others; each branch is
    contiguous. It is -1 for padding at the end of a row.
    """

    number: Int[Tensor, "B T"]

    def context_needed(self, past: int) -> int:
        return int(self.positions(past).max()) + 1

    def positions(self, past: int) -> Int[Tensor, "B T"]:
        index = torch.arange(self.number.shape[1], device=self.number.device)
        starts = torch.ones_like(self.number, dtype=torch.bool)
        starts[:, 1:] = self.number[:, 1:] != self.number[:, :-1]
        within = index - torch.where(starts, index, 0).cummax(1).values
        trunk = (self.number == 0).sum(1, keepdim=True)
        return past + torch.where(self.number == 0, index, trunk + within).where(self.number >= 0, 0)

    def mask(self, past: int, window: int) -> Bool[Tensor, "B 1 T past+T"]:
        query, key = self.number[:, :, None], self.number[:, None, :]
        count, device = self.number.shape[1], self.number.device
        causal = torch.ones(count, count, dtype=torch.bool, device=device).tril()
        mask = ((key == 0) | (key == query)) & causal
        if past:
            mask = torch.cat((mask.new_ones(len(mask), count, past), mask), dim=2)
        if window:
            own = self.positions(past)
            before = torch.arange(past, device=device).expand(len(own), past)
            mask = mask & (torch.cat((before, own), dim=1)[:, None, :] > own[:, :, None] - window)
        return mask[:, None]
