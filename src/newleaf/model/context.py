"""What every layer of a forward pass shares: positions, masks, rotary tables, KV cache and documents."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from newleaf.model.gpt_config import GPTConfig
from newleaf.model.kv_cache import Cache
from newleaf.model.masks import Masks, Placement, attention_mask, token_positions
from newleaf.model.packed_documents import PackedDocuments
from newleaf.model.rotary import rotary_table

RotaryTables = tuple[Tensor, Tensor]  # cosines, sines


@dataclass(frozen=True)
class Context:
    """One forward pass over T new tokens."""

    positions: Int[Tensor, "*batch T"]  # [T], or [B, T] where rows differ
    masks: Masks  # by window: bool [1 or B, 1, T, S]; None is causal, or one query that sees all keys
    rotary: RotaryTables | None = None  # broadcast to [B, T, H, rotary_dim]
    cache: Cache | None = None
    packed_documents: PackedDocuments | None = None  # where documents can be attended to without a mask
    # fp32 [T, rotary_dim], for the fused attention: where every text or document starts at position 0
    fused_rotary: RotaryTables | None = None

    def to(self, dtype: torch.dtype) -> Context:
        """The same with the rotary tables in the type of the activations."""
        if self.rotary is None:
            return self
        cos, sin = self.rotary
        return replace(self, rotary=(cos.to(dtype), sin.to(dtype)))


def build_context(
    config: GPTConfig,
    ids: Int[Tensor, "B T"],
    real: Bool[Tensor, "B T"] | None,
    documents: Int[Tensor, "B T"] | None,
    cache: Cache | None,
    placement: Placement | None,
) -> Context:
    """Where each token stands and what it sees; arguments as in `GPT.forward`.

    Raises ValueError when the tokens do not fit the context.
    """
    count, past = ids.shape[1], cache.length if cache is not None else 0
    needed = past + count if placement is None else placement.context_needed(past)
    if needed > config.context_length:
        raise ValueError(f"{needed} tokens do not fit the context of {config.context_length}")
    # A cache that has seen padding keeps the record, so that later tokens go on ignoring it.
    seen = cache.mark_real(real, count) if cache is not None else real
    if placement is not None:
        positions = placement.positions(past)
    else:
        positions = token_positions(seen, documents, past, count, ids.device)

    def mask(window: int) -> Bool[Tensor, "B 1 T S"] | None:
        if placement is not None:
            return placement.mask(past, window)
        return attention_mask(seen, documents, past, count, window, ids.device)

    packed = None
    if documents is not None and seen is None and cache is None and placement is None:
        packed = PackedDocuments.of(documents)
    rotary = fused_rotary = None
    if config.positions == "rotary":
        rotary, fused_rotary = _rotary_tables(config, positions, packed, past)
    return Context(positions, Masks(mask), rotary, cache, packed, fused_rotary)


def _rotary_tables(
    config: GPTConfig, positions: Int[Tensor, "*batch T"], packed: PackedDocuments | None, past: int
) -> tuple[RotaryTables, RotaryTables | None]:
    """Tables for each head, and those for the fused attention where all rows share them."""
    if packed is None:
        cos, sin = rotary_table(positions, config)
        shared = (cos, sin) if cos.ndim == 2 and past == 0 else None
    else:
        # Documents start again at position 0: rows of one table, which the fused attention looks up itself.
        cos, sin = shared = rotary_table(torch.arange(positions.shape[-1]), config)
        cos, sin = cos[positions], sin[positions]
    return (cos.unsqueeze(-2), sin.unsqueeze(-2)), shared
