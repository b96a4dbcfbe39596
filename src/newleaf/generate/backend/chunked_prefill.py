"""Reading a text in pieces that are short enough for others to take turns: the same numbers as in one pass,
up to rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from newleaf.generate.backend.runner import evaluating
from newleaf.model import GPT, KVCache

CHUNK_TOKENS = 256  # tokens that are read at once


def hidden_state_chunks(network: GPT, ids: Sequence[int]) -> Iterator[Tensor]:
    """The last hidden states of a text after the final norm, [T, C] for each piece of it."""
    cache = (
        KVCache(network.config, 1, len(ids), network.dtype, network.device)
        if len(ids) > CHUNK_TOKENS
        else None
    )
    for start in range(0, len(ids), CHUNK_TOKENS):
        with torch.no_grad(), evaluating(network):
            hidden = network.hidden(
                torch.tensor([list(ids[start : start + CHUNK_TOKENS])], device=network.device), cache=cache
            )
        yield hidden[0]
