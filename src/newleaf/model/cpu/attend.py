"""The ways to compute attention, and which one is taken when; each gives softmax(q kᵀ · scale + mask) v.

| way | taken |
|---|---|
| fused (`fused_layers`): projections, QK norm, rotary and attention in one step | causal, many tokens, CPU |
| block-diagonal: each document by itself | documents in one row, none of them longer than the window |
| query chunks: some queries after the other | without gradients, where all scores would take much memory |
| with sinks (`matmul_attention`) | the layer has attention sinks |
| causal products (`matmul_attention`) | causal, short, no grouped queries, CPU |
| masked products (`matmul_attention`) | a mask, short, without gradients, CPU |
| PyTorch's `scaled_dot_product_attention` | all else |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.context import Context
from newleaf.model.cpu import fused_layers, matmul_attention
from newleaf.model.cpu.fused_projections import are_fusable, fused_projection
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.packed_documents import Span

MAX_MATMUL_LENGTH = 1024  # queries; beyond, T² scores no longer fit the processor's cache
MAX_SCORES = 1 << 23  # held at once without gradients; larger blocks of memory are not reused

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q, k, v, mask


class AttentionLayer(Protocol):
    """What is needed of `model.attention.Attention`."""

    config: GPTConfig
    window: int
    scale: float
    fp32_scores: bool
    dropout: float
    training: bool
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    q_norm: nn.Module
    k_norm: nn.Module
    sinks: nn.Parameter | None


def can_fuse(layer: AttentionLayer, x: Float[Tensor, "B T C"], context: Context) -> bool:
    """Whether this is causal attention over complete texts or documents, with nothing that fusing lacks."""
    config, length = layer.config, x.shape[1]
    if context.packed_documents is not None:
        is_causal = not 0 < layer.window < length
    else:
        is_causal = context.masks[layer.window] is None
    tables, uses_rotary = context.fused_rotary, context.rotary is not None
    return (
        context.cache is None
        and is_causal
        and (not uses_rotary or (tables is not None and tables[0].shape[-1] == config.head_dim))
        and not (config.rotary_interleaved and uses_rotary)
        and layer.sinks is None
        and config.head_dim % 32 == 0
        and length % 16 == 0
        and not (layer.training and layer.dropout)
        and not layer.fp32_scores
        and are_fusable(layer.q, layer.k, layer.v)
        and fused_layers.fits(x)
    )


def attend_fused(
    layer: AttentionLayer, x: Float[Tensor, "B T C"], context: Context
) -> Float[Tensor, "B T H*D"]:
    """Everything before the output projection in one step; `can_fuse` says where."""
    config, norms, starts = layer.config, None, None
    if config.qk_norm:
        norms = layer.q_norm.get_parameter("weight"), layer.k_norm.get_parameter("weight")
    if context.packed_documents is not None:
        starts = context.packed_documents.starts
    qkv, heads = fused_projection(x, (layer.q, layer.k, layer.v)), (config.n_head, config.n_kv_head)
    return fused_layers.causal_attention(
        qkv, norms, config.norm_eps, context.fused_rotary, *heads, layer.scale, starts
    )


def attend(
    layer: AttentionLayer,
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S D"],
    context: Context,
) -> Float[Tensor, "B H T D"]:
    """softmax(q kᵀ · scale) v over the keys that the context and the layer's window let each query see."""
    dropout = layer.dropout if layer.training else 0.0

    def attend_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if layer.sinks is not None:
            return matmul_attention.sink_attention(q, k, v, mask, layer.sinks, layer.scale, dropout)
        return _attend_without_sinks(q, k, v, mask, layer.scale, dropout, layer.fp32_scores)

    def attend_chunked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None and layer.sinks is None:  # PyTorch's own kernel holds few scores
            return attend_all(q, k, v, mask)
        return _attend_in_query_chunks(attend_all, q, k, v, mask)

    documents = context.packed_documents
    spans = documents.spans(layer.window) if documents is not None else None
    if spans is not None:
        return _attend_block_diagonal(attend_chunked, q, k, v, spans)
    mask = context.masks[layer.window]
    if mask is not None:  # no query sees a key before the mask's first column
        k, v = k[:, :, -mask.shape[-1] :], v[:, :, -mask.shape[-1] :]
    return attend_chunked(q, k, v, mask)


def _attend_without_sinks(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: float, fp32_scores: bool
) -> Tensor:
    """By matrix products or PyTorch's kernel; without a mask, causal when T = S."""
    if fp32_scores and v.dtype != torch.float32:
        q, k = q.float(), k.float()
        return _attend_without_sinks(q, k, v.float(), mask, scale, dropout, False).to(v.dtype)
    length, is_grouped, on_cpu = q.shape[2], k.shape[1] != q.shape[1], q.device.type == "cpu"
    is_causal = mask is None and length > 1
    if is_causal and on_cpu and length <= MAX_MATMUL_LENGTH and not is_grouped:
        return matmul_attention.causal_attention(q, k, v, scale, dropout)
    if mask is not None and not torch.is_grad_enabled() and on_cpu and 16 <= length <= MAX_MATMUL_LENGTH:
        return matmul_attention.masked_attention(q, k, v, mask, scale)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=is_causal, scale=scale, enable_gqa=is_grouped
    )


def _attend_in_query_chunks(
    attend_all: Attend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> Tensor:
    """Chunk by chunk of queries, so that no more than MAX_SCORES scores, or one query's, are held at once."""
    length = q.shape[2]
    size = max(1, MAX_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    if length <= size or torch.is_grad_enabled():
        return attend_all(q, k, v, mask)
    key = torch.arange(k.shape[2], device=q.device)
    outputs = []
    for start in range(0, length, size):
        chunk = slice(start, start + size)
        # Without a mask, queries and keys are the same tokens.
        seen = (key <= key[chunk, None])[None, None] if mask is None else mask[:, :, chunk]
        outputs.append(attend_all(q[:, :, chunk], k, v, seen))
    return torch.cat(outputs, dim=2)


def _attend_block_diagonal(
    attend_all: Attend, q: Tensor, k: Tensor, v: Tensor, spans: Sequence[Span]
) -> Tensor:
    """Causal attention inside each span: exact, and without the scores that a mask would throw away."""
    outputs = []
    for row, start, end in spans:
        own = slice(row, row + 1), slice(None), slice(start, end)
        outputs.append(attend_all(q[own], k[own], v[own], None))
    batch, heads, length, dim = q.shape
    return torch.cat(outputs, dim=2).view(heads, batch, length, dim).transpose(0, 1)
