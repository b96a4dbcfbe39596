"""Causal self-attention with grouped queries, rotary positions, QK norm, masks and a KV cache."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.context import Context
from newleaf.model.cpu.attend import attend, attend_fused, can_fuse
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.norm import RMSNorm
from newleaf.model.rotary import rotate


class Attention(nn.Module):
    """H heads, each softmax(q kᵀ / √D) v over the tokens so far, then a projection back to the width C.

    q, k and v are separate Linears, so that the weights of every family map onto the same names. With grouped
    queries (K < H), H / K query heads share a key and value head.
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.window = config.windows[layer] if config.windows else 0  # tokens that a query sees; 0 sees all
        self.scale, self.fp32_scores = config.scale_of(layer), config.fp32_scores
        self.dropout = config.attention_dropout

        width, dim = config.n_embd, config.head_dim
        self.q = nn.Linear(width, config.n_head * dim, bias=config.attention_bias)
        self.k = nn.Linear(width, config.n_kv_head * dim, bias=config.attention_bias)
        self.v = nn.Linear(width, config.n_kv_head * dim, bias=config.attention_bias)
        self.out = nn.Linear(config.n_head * dim, width, bias=config.attention_out_bias)
        self.q_norm: nn.Module = RMSNorm(dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.sinks = nn.Parameter(torch.zeros(config.n_head)) if config.sinks else None

    def forward(self, x: Float[Tensor, "B T C"], context: Context) -> Float[Tensor, "B T C"]:
        if can_fuse(self, x, context):  # what follows in one compiled step
            mixed = attend_fused(self, x, context)
        else:
            mixed = self._attend(x, context)
        # y = Wo [head 1, …, head H]
        y: Tensor = self.out(mixed)
        return y

    def _attend(self, x: Float[Tensor, "B T C"], context: Context) -> Float[Tensor, "B T H*D"]:
        # q = Wq x, k = Wk x, v = Wv x                                   [B, T, heads, D]
        q, k, v = (
            project(x).unflatten(-1, (-1, self.config.head_dim)) for project in (self.q, self.k, self.v)
        )

        # q ← q / rms(q) · γ, k likewise (QK norm)
        q, k = self.q_norm(q), self.k_norm(k)

        # pair i of the token at position t turns by the angle t · base^(−2i/D)
        if context.rotary is not None:
            q, k = (rotate(each, *context.rotary, self.config.rotary_interleaved) for each in (q, k))

        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, heads, T, D]

        # k ← [cached k, k], v ← [cached v, v]                           [B, K, S, D]
        if context.cache is not None:
            k, v = context.cache.append(self.layer, k, v)

        # softmax(q kᵀ · scale) v, over the keys that each query may see  [B, H, T, D]
        mixed = attend(self, q, k, v, context)
        return mixed.transpose(1, 2).flatten(2)
