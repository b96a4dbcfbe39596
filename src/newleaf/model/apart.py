"""Documents that share a row, each attended to by itself: exact, and without the scores that a mask would throw away."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SHORTEST = 32  # tokens of a document on the average; below, the many small products cost more than a mask does

Runs = tuple[tuple[int, int, int], ...]  # row, first position, one after the last; row by row


def runs_of(documents: Tensor | None, windows: set[int]) -> Runs | None:
    """Where each document of `documents` [B, T] stands; None where a mask does better (see above; on GPUs), or is needed: for windows that
    are narrower than a document, and for documents that come back after another."""
    if documents is None or documents.device.type != "cpu":
        return None
    batch, length = documents.shape
    steps = documents[:, 1:] - documents[:, :-1]
    if bool((steps < 0).any()) or batch + int((steps > 0).sum()) > batch * length // SHORTEST:
        return None
    runs = []
    for row in range(batch):
        ends = [*((steps[row] != 0).nonzero().flatten() + 1).tolist(), length]
        runs += [(row, start, end) for start, end in zip([0, *ends], ends, strict=False)]
    longest = max(end - start for _, start, end in runs)
    return None if any(0 < window < longest for window in windows) else tuple(runs)


def attend_apart(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, runs: Sequence[tuple[int, int, int]]
) -> Tensor:
    """Causal attention [B, H, T, D] inside each run, by a function of q [1, H, n, D] and k, v [1, K, n, D]."""
    pieces = []
    for row, start, end in runs:
        pieces.append(attend(*(x[row : row + 1, :, start:end] for x in (q, k, v))))
    batch, heads, length, width = q.shape
    return torch.cat(pieces, dim=2).view(heads, batch, length, width).transpose(0, 1)
