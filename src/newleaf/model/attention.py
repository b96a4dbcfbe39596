"""Causal self-attention with grouped queries, rotary positions, QK norm, masks and a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.model.cpu import fused_layers
from newleaf.model.cpu.block_diagonal_attention import PackedDocuments, attend_block_diagonal
from newleaf.model.cpu.fused_projections import fused_projection, joinable
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.kv_cache import Cache
from newleaf.model.masks import Masks
from newleaf.model.norm import RMSNorm
from newleaf.model.rotary import rotate

PRODUCTS_UP_TO = 1024  # tokens
# that are held at once where nothing is learned: memory of this size is used again, more is given back each
# time
SCORES = 1 << 23


@dataclass(frozen=True)
class Context:
    """What every layer of one forward pass shares."""

    # by window: bool, broadcasts to [B, H, T, S]; None is plain causal, or one token that sees all
    masks: Masks
    rotary: tuple[Tensor, Tensor] | None  # tables that broadcast to [B, T, H, rotary_dim]
    cache: Cache | None
    packed_documents: PackedDocuments | None = (
        None  # where there are documents in the rows that can be attended to one by one, without a mask
    )
    # fp32 tables [T, rotary_dim], where every text or document begins at the first position
    angles: tuple[Tensor, Tensor] | None = None


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float, fp32: bool = False
) -> Tensor:
    """Softmax attention over q [B, H, T, D] and k, v [B, K, S, D] → [B, H, T, D]; without a mask, causal when
    T = S."""
    if fp32 and v.dtype != torch.float32:
        return attend(q.float(), k.float(), v.float(), mask, dropout, scale).to(v.dtype)
    causal = mask is None and q.shape[2] > 1
    if causal and q.device.type == "cpu" and q.shape[2] <= PRODUCTS_UP_TO and k.shape[1] == q.shape[1]:
        return _attend_by_products(q, k, v, dropout, scale)
    if (
        mask is not None
        and not torch.is_grad_enabled()
        and q.device.type == "cpu"
        and 16 <= q.shape[2] <= PRODUCTS_UP_TO
    ):
        return _attend_masked(q, k, v, mask, scale)
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _attend_with_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float, sinks: Tensor
) -> Tensor:
    """Attention in which each head's sink, a score without a value, takes its share of the softmax. The
    queries of a group of heads stand below each other, so that keys and values are used as they lie."""
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    if mask is None and length > 1:
        mask = torch.ones(length, k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    scores = ((q * scale).reshape(batch, k.shape[1], group * length, dim) @ k.mT).view(
        batch, k.shape[1], group, length, -1
    )
    if mask is not None:
        hidden = ~mask.unsqueeze(2)
        scores = (
            scores.masked_fill(hidden, float("-inf"))
            if torch.is_grad_enabled()
            else scores.masked_fill_(hidden, float("-inf"))
        )
    sink = sinks.view(1, -1, group, 1, 1).expand(batch, -1, -1, length, 1)
    weights = F.dropout(torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1], dropout, dropout > 0)
    return (weights.flatten(2, 3) @ v).view(batch, heads, length, dim)


def _in_parts(
    attend_to: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Tensor:
    """Attention for some queries after the other, so that no more than SCORES scores, or one query's, are
    held at once."""
    length = q.shape[2]
    most = max(1, SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    if length <= most or torch.is_grad_enabled():
        return attend_to(q, k, v, mask)
    # Of no mask it is known that queries and keys are the same tokens.
    key = torch.arange(k.shape[2], device=q.device)
    parts = []
    for first in range(0, length, most):
        part = slice(first, first + most)
        own = (key <= key[part, None])[None, None] if mask is None else mask[:, :, part]
        parts.append(attend_to(q[:, :, part], k, v, own))
    return torch.cat(parts, dim=2)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor, dropout: float, scale: float) -> Tensor:
    """Causal attention as two plain matrix products: on a CPU this takes 40 % of the fused kernel's time,
    while T² scores fit the cache.

    Queries go in two halves, so that the first half never meets the keys it may not see.
    """
    length = q.shape[2]
    q = q * scale
    half = length if length < 256 else (length + 1) // 2
    future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu_(1)
    outputs = []
    for start in range(0, length, half):
        end = min(start + half, length)
        scores = q[:, :, start:end] @ k[:, :, :end].mT + future[start:end, :end]
        weights = F.dropout(scores.softmax(-1), dropout, dropout > 0)
        outputs.append(weights @ v[:, :, :end])
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention under any mask as two plain matrix products, which on a CPU take a third of the fused
    kernel's time. The queries of a group of heads stand below each other, so that keys and values are used as
    they lie."""
    batch, heads, length, dim = q.shape
    grouped = (q * scale).reshape(batch, k.shape[1], -1, dim)
    scores = grouped @ k.mT
    # Adding takes half the time of filling in.
    bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
    scores.view(batch, k.shape[1], -1, length, k.shape[2]).add_(bias.unsqueeze(2))
    return (scores.softmax(-1) @ v).view(batch, heads, length, dim)


class Attention(nn.Module):
    """x [B, T, C] → [B, T, C]; q, k and v are separate Linears, so that every family maps onto the same
    names."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.window = config.windows[layer] if config.windows else 0
        self.scale, self.fp32 = config.scale_of(layer), config.fp32_scores
        self.interleaved = config.rotary_interleaved
        self.head_dim, self.n_head, self.n_kv_head = config.head_dim, config.n_head, config.n_kv_head
        self.q = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=config.attention_bias)
        self.k = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=config.attention_bias)
        self.v = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=config.attention_bias)
        self.out = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=config.attention_out_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.sinks = nn.Parameter(torch.zeros(config.n_head)) if config.sinks else None
        self.dropout, self.eps = config.attention_dropout, config.norm_eps

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self._is_plain(context, x.shape[1]) and fused_layers.fits(x):
            q_norm, k_norm = self.q_norm, self.k_norm
            norms = (
                (q_norm.weight, k_norm.weight)
                if isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm)
                else None
            )
            qkv = fused_projection(x, (self.q, self.k, self.v))
            heads = self.n_head, self.n_kv_head
            begins = context.packed_documents.beginnings if context.packed_documents is not None else None
            result: Tensor = self.out(
                fused_layers.causal_attention(
                    qkv, norms, self.eps, context.angles, *heads, self.scale, begins
                )
            )
            return result
        # [B, T, heads, D]
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q, self.k, self.v))
        q, k = self.q_norm(q), self.k_norm(k)
        if context.rotary is not None:
            q, k = rotate(q, *context.rotary, self.interleaved), rotate(k, *context.rotary, self.interleaved)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if context.cache is not None:
            k, v = context.cache.append(self.layer, k, v)
        runs = context.packed_documents.runs(self.window) if context.packed_documents is not None else None
        mask = context.masks[self.window] if runs is None else None
        dropout = self.dropout if self.training else 0.0
        if mask is not None:  # nobody sees what stands before it
            k, v = k[:, :, -mask.shape[-1] :], v[:, :, -mask.shape[-1] :]

        def attend_under(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            if self.sinks is not None:
                return _attend_with_sinks(q, k, v, mask, dropout, self.scale, self.sinks)
            return attend(q, k, v, mask, dropout, self.scale, self.fp32)

        def attend_to(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if mask is None and self.sinks is None:  # PyTorch's own kernel holds few scores
                return attend_under(q, k, v, mask)
            return _in_parts(attend_under, q, k, v, mask)

        mixed = attend_to(q, k, v) if runs is None else attend_block_diagonal(attend_to, q, k, v, runs)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _is_plain(self, context: Context, length: int) -> bool:
        """Whether this is causal attention over whole texts or documents and nothing more, which `fused` does
        in one step."""
        unmasked = (
            not 0 < self.window < length
            if context.packed_documents is not None
            else context.masks[self.window] is None
        )
        return (
            context.cache is None
            and unmasked
            and (
                context.rotary is None
                or (context.angles is not None and context.angles[0].shape[-1] == self.head_dim)
            )
            and not (self.interleaved and context.rotary is not None)
            and self.sinks is None
            and self.head_dim % 32 == 0
            and length % 16 == 0
            and not (self.training and self.dropout)
            and not self.fp32
            and joinable(self.q, self.k, self.v)
        )
