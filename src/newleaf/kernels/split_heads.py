"""Queries, keys and values of each token, split into heads, with QK norm and rotary positions.

The arguments of a loop are the columns of the class named like it. Tensors are passed as addresses of
contiguous memory, of bf16 or fp32 numbers unless said otherwise. Shapes: B batch, T time, H query heads,
K key/value heads, D head dimension.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba as nb

from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import float_argument, int_argument, load, load_int, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import inverse_rms, load_at, store_at
from newleaf.kernels.simd import broadcast, fma, reduce_sum


class SplitHeads(IntEnum):
    QKV = 0  # [B·T, (H + 2 K)·D]
    Q = 1  # [B, H, T, D]
    K = 2  # [B, K, T, D]
    V = 3  # [B, K, T, D]
    Q_NORM = 4  # fp32 [D], or 0
    K_NORM = 5  # fp32 [D], or 0
    COSINES = 6  # fp32 [T, D], or 0
    SINES = 7  # fp32 [T, D], or 0
    LENGTH = 8  # T
    HEADS = 9  # H
    HEAD_DIM = 10  # D
    IS_FP32 = 11
    EPSILON = 12  # bits of an fp32 number
    QUERY_SCALE = 13  # bits of an fp32 number
    KV_HEADS = 14  # K
    DOCUMENT_STARTS = 15  # int32 [B, T]: where the document of a token starts; or 0


@parallel(SplitHeads)
def split_heads_forward(table: Any, first: Any, last: Any) -> None:
    """From a row for each token to a row for each head and token."""
    qkv, length = int_argument(table, SplitHeads.QKV), int_argument(table, SplitHeads.LENGTH)
    q_heads, kv_heads = int_argument(table, SplitHeads.HEADS), int_argument(table, SplitHeads.KV_HEADS)
    dim, is_fp32 = int_argument(table, SplitHeads.HEAD_DIM), int_argument(table, SplitHeads.IS_FP32)
    cosines, sines = int_argument(table, SplitHeads.COSINES), int_argument(table, SplitHeads.SINES)
    epsilon = float_argument(table, SplitHeads.EPSILON)
    query_scale = float_argument(table, SplitHeads.QUERY_SCALE)
    document_starts = int_argument(table, SplitHeads.DOCUMENT_STARTS)
    half, all_heads = dim // 2, q_heads + 2 * kv_heads
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(document_starts + 4 * row) if document_starts != 0 else time
        cos, sin = cosines + 4 * dim * position, sines + 4 * dim * position
        for part in range(3):  # queries, keys, values
            heads = q_heads if part == 0 else kv_heads
            first_head = 0 if part == 0 else q_heads + (part - 1) * kv_heads
            out = int_argument(table, SplitHeads.Q + part)
            weight = int_argument(table, SplitHeads.Q_NORM + part) if part < 2 else 0
            rotates = cosines != 0 and part < 2
            for head in range(heads):
                source = (row * all_heads + first_head + head) * dim
                target = ((batch * heads + head) * length + time) * dim
                scale = query_scale if part == 0 else nb.float32(1.0)
                if weight != 0:
                    scale *= inverse_rms(qkv, source, dim, is_fp32, epsilon)
                scales = broadcast(scale)
                for k in range(0, half, LANES):
                    left = load_at(qkv, source + k, is_fp32) * scales
                    right = load_at(qkv, source + half + k, is_fp32) * scales
                    if weight != 0:
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                    if rotates:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = left * c - right * s, fma(left, s, right * c)
                    store_at(out, target + k, is_fp32, left)
                    store_at(out, target + half + k, is_fp32, right)


class SplitHeadsBackward(IntEnum):
    """The arguments of the forward loop, with the gradients of q, k and v in place of these."""

    QKV = 0
    Q_GRAD = 1
    K_GRAD = 2
    V_GRAD = 3
    Q_NORM = 4
    K_NORM = 5
    COSINES = 6
    SINES = 7
    LENGTH = 8
    HEADS = 9
    HEAD_DIM = 10
    IS_FP32 = 11
    EPSILON = 12
    QUERY_SCALE = 13
    KV_HEADS = 14
    DOCUMENT_STARTS = 15
    QKV_GRAD = 16  # [B·T, (H + 2 K)·D]
    NORM_GRADS = 17  # fp32 [chunks, 2, D] of zeros
    CHUNK = 18


@parallel(SplitHeadsBackward)
def split_heads_backward(table: Any, first: Any, last: Any) -> None:
    """The gradient of qkv, and the sums over each chunk of the gradients of the norms' weights."""
    qkv, length = int_argument(table, SplitHeadsBackward.QKV), int_argument(table, SplitHeadsBackward.LENGTH)
    q_heads = int_argument(table, SplitHeadsBackward.HEADS)
    kv_heads = int_argument(table, SplitHeadsBackward.KV_HEADS)
    dim = int_argument(table, SplitHeadsBackward.HEAD_DIM)
    is_fp32 = int_argument(table, SplitHeadsBackward.IS_FP32)
    cosines = int_argument(table, SplitHeadsBackward.COSINES)
    sines = int_argument(table, SplitHeadsBackward.SINES)
    epsilon = float_argument(table, SplitHeadsBackward.EPSILON)
    query_scale = float_argument(table, SplitHeadsBackward.QUERY_SCALE)
    document_starts = int_argument(table, SplitHeadsBackward.DOCUMENT_STARTS)
    out = int_argument(table, SplitHeadsBackward.QKV_GRAD)
    norm_grads = int_argument(table, SplitHeadsBackward.NORM_GRADS)
    chunk = int_argument(table, SplitHeadsBackward.CHUNK)
    half, all_heads = dim // 2, q_heads + 2 * kv_heads
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(document_starts + 4 * row) if document_starts != 0 else time
        cos, sin = cosines + 4 * dim * position, sines + 4 * dim * position
        for part in range(3):  # queries, keys, values
            heads = q_heads if part == 0 else kv_heads
            first_head = 0 if part == 0 else q_heads + (part - 1) * kv_heads
            grad = int_argument(table, SplitHeadsBackward.Q_GRAD + part)
            weight = int_argument(table, SplitHeadsBackward.Q_NORM + part) if part < 2 else 0
            rotates = cosines != 0 and part < 2
            sums = norm_grads + 4 * dim * (2 * (first // chunk) + part)
            factor = broadcast(query_scale if part == 0 else nb.float32(1.0))
            for head in range(heads):
                target = (row * all_heads + first_head + head) * dim
                source = ((batch * heads + head) * length + time) * dim
                scale, dots = broadcast(1.0), broadcast(0.0)
                if weight != 0:
                    scale = broadcast(inverse_rms(qkv, target, dim, is_fp32, epsilon))
                for k in range(0, half, LANES):
                    left = load_at(grad, source + k, is_fp32) * factor
                    right = load_at(grad, source + half + k, is_fp32) * factor
                    if rotates:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = fma(right, s, left * c), right * c - left * s
                    if weight != 0:
                        x = load_at(qkv, target + k, is_fp32) * scale
                        y = load_at(qkv, target + half + k, is_fp32) * scale
                        store(sums + 4 * k, fma(left, x, load(sums + 4 * k)))
                        store(sums + 4 * (half + k), fma(right, y, load(sums + 4 * (half + k))))
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                        dots = fma(left, x, fma(right, y, dots))
                    store_at(out, target + k, is_fp32, left)
                    store_at(out, target + half + k, is_fp32, right)
                if weight != 0:
                    mean = broadcast(reduce_sum(dots) / nb.float32(dim))
                    for k in range(0, dim, LANES):
                        unit = load_at(qkv, target + k, is_fp32) * scale
                        g = load_at(out, target + k, is_fp32)
                        store_at(out, target + k, is_fp32, scale * (g - unit * mean))
