"""Who sees whom, and where each token stands: causal order, padding, documents and windows."""

from __future__ import annotations

import torch
from torch import Tensor


def token_positions(seen: Tensor | None, documents: Tensor | None, past: int, count: int, device: torch.device) -> Tensor:
    """Positions [T] of `count` tokens after `past` others; [B, T] where padding or a new document shifts them.

    `seen` [B, past + T] is false at padding, or None; `documents` [B, T] numbers each token's document, or None.
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

    With a `window` above 0, a query sees itself and the `window` − 1 tokens before it.
    """
    padded = seen is not None and not bool(seen.all())
    narrow = 0 < window < past + count
    if not padded and not narrow and documents is None and (past == 0 or count == 1):
        return None
    query = torch.arange(past, past + count, device=device).unsqueeze(1)
    key = torch.arange(past + count, device=device)
    mask = (key <= query)[None, None]
    if narrow:
        mask = mask & (key > query - window)
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    if padded and seen is not None:
        # Padding sees itself, so that no row of the softmax is empty; nothing real ever sees it.
        mask = mask & (seen[:, None, None, :] | (key == query))
    return mask
