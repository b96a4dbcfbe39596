"""What attention does between its matrix products: heads laid out, normed and turned, and the causal softmax.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.kernels.compiler import kernel
from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import float_argument, int_argument, load, load_int, load_long, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import inverse_rms, load_at, store_at
from newleaf.kernels.simd import broadcast, fma, maximum, reduce_max, reduce_sum, select_first_lanes


@parallel
def split_heads_forward(table: Any, first: Any, last: Any) -> None:
    """Queries, keys and values of each token, from its row to its heads; with QK norm and rotary positions
    where their tables are not 0.

    qkv [B·T, (H + 2 K)·D]; q [B, H, T, D]; k, v [B, K, T, D]; q_norm, k_norm fp32 [D]; cos, sin fp32 [T, D];
    T, H, D, wide, eps, scale of q (fp32 bits), K; begins (int32 [B, T]: where the document of a token begins,
    or 0).
    """
    qkv, norms, tables = int_argument(table, 0), table + 32, table + 48
    length, all_heads, dim, is_fp32, kv_heads = (
        int_argument(table, 8),
        int_argument(table, 9),
        int_argument(table, 10),
        int_argument(table, 11),
        int_argument(table, 14),
    )
    epsilon, query_scale, document_starts = (
        float_argument(table, 12),
        float_argument(table, 13),
        int_argument(table, 15),
    )
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(document_starts + 4 * row) if document_starts != 0 else time
        for part in range(3):
            heads = all_heads if part == 0 else kv_heads
            before = 0 if part == 0 else all_heads + (part - 1) * kv_heads
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * position, load_long(tables + 8) + 4 * dim * position
            rotates = load_long(tables) != 0 and part < 2
            for head in range(heads):
                at, to = (
                    (row * (all_heads + 2 * kv_heads) + before + head) * dim,
                    ((batch * heads + head) * length + time) * dim,
                )
                scale = query_scale if part == 0 else nb.float32(1.0)
                if weight != 0:
                    scale *= inverse_rms(qkv, at, dim, is_fp32, epsilon)
                scales = broadcast(scale)
                for k in range(0, half, LANES):
                    left, right = (
                        load_at(qkv, at + k, is_fp32) * scales,
                        load_at(qkv, at + half + k, is_fp32) * scales,
                    )
                    if weight != 0:
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                    if rotates:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = left * c - right * s, fma(left, s, right * c)
                    store_at(base, to + k, is_fp32, left)
                    store_at(base, to + half + k, is_fp32, right)


@parallel
def split_heads_backward(table: Any, first: Any, last: Any) -> None:
    """The way back of `split_heads_forward`: same values, with the gradients of q, k and v, then qkv's
    gradient to write and norm gradients to add to.

    … as there, then qkv_grad [B·T, (H + 2 K)·D], norm_grads fp32 [chunks, 2, D] of zeros, chunk.
    """
    qkv, norms, tables = int_argument(table, 0), table + 32, table + 48
    length, all_heads, dim, is_fp32, kv_heads = (
        int_argument(table, 8),
        int_argument(table, 9),
        int_argument(table, 10),
        int_argument(table, 11),
        int_argument(table, 14),
    )
    epsilon, query_scale = float_argument(table, 12), float_argument(table, 13)
    document_starts, out, sums, chunk = (
        int_argument(table, 15),
        int_argument(table, 16),
        int_argument(table, 17),
        int_argument(table, 18),
    )
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(document_starts + 4 * row) if document_starts != 0 else time
        for part in range(3):
            heads = all_heads if part == 0 else kv_heads
            before = 0 if part == 0 else all_heads + (part - 1) * kv_heads
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * position, load_long(tables + 8) + 4 * dim * position
            rotates = load_long(tables) != 0 and part < 2
            mine = sums + 4 * dim * (2 * (first // chunk) + part)
            factor = broadcast(query_scale if part == 0 else nb.float32(1.0))
            for head in range(heads):
                at, of = (
                    (row * (all_heads + 2 * kv_heads) + before + head) * dim,
                    ((batch * heads + head) * length + time) * dim,
                )
                scale, along = broadcast(1.0), broadcast(0.0)
                if weight != 0:
                    scale = broadcast(inverse_rms(qkv, at, dim, is_fp32, epsilon))
                for k in range(0, half, LANES):
                    left, right = (
                        load_at(base, of + k, is_fp32) * factor,
                        load_at(base, of + half + k, is_fp32) * factor,
                    )
                    if rotates:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = fma(right, s, left * c), right * c - left * s
                    if weight != 0:
                        x, y = (
                            load_at(qkv, at + k, is_fp32) * scale,
                            load_at(qkv, at + half + k, is_fp32) * scale,
                        )
                        store(mine + 4 * k, fma(left, x, load(mine + 4 * k)))
                        store(mine + 4 * (half + k), fma(right, y, load(mine + 4 * (half + k))))
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                        along = fma(left, x, fma(right, y, along))
                    store_at(out, at + k, is_fp32, left)
                    store_at(out, at + half + k, is_fp32, right)
                if weight != 0:
                    mean = broadcast(reduce_sum(along) / nb.float32(dim))
                    for k in range(0, dim, LANES):
                        store_at(
                            out,
                            at + k,
                            is_fp32,
                            scale
                            * (load_at(out, at + k, is_fp32) - load_at(qkv, at + k, is_fp32) * scale * mean),
                        )


@kernel
def _mask_lanes(values: Any, key: Any, begin: Any, end: Any, other: Any) -> Any:
    """The lanes whose keys, counted from `key`, lie from `begin` to before `end`; `other` in the rest."""
    return select_first_lanes(
        other, nb.int32(begin - key), select_first_lanes(values, nb.int32(end - key), other)
    )


@parallel
def causal_softmax_forward(table: Any, first: Any, last: Any) -> None:
    """Softmax of each row over the keys that its query may see, in place; zeros for the others.

    scores [N·queries, keys], queries, keys, start (the first query's place among the keys), wide; begins
    (int32 [B, T]: where the document of a query begins, from the first query on; 0 where all see the first
    key), T, the first key's place, rows of a text.
    """
    scores, queries, keys, start, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
        int_argument(table, 4),
    )
    document_starts, length, before, own = (
        int_argument(table, 5),
        int_argument(table, 6),
        int_argument(table, 7),
        int_argument(table, 8),
    )
    nothing, zeros = broadcast(-3.0e38), broadcast(0.0)
    for row in range(first, last):
        at, begin, end = row * keys, 0, start + row % queries + 1
        if document_starts != 0:
            begin = load_int(document_starts + 4 * (row // own * length + row % queries)) - before
        opening = begin // LANES * LANES
        tops, sums = nothing, zeros
        for k in range(opening, end, LANES):
            tops = maximum(tops, _mask_lanes(load_at(scores, at + k, is_fp32), k, begin, end, nothing))
        top = broadcast(reduce_max(tops))
        for k in range(opening, end, LANES):
            power = _mask_lanes(exp(load_at(scores, at + k, is_fp32) - top), k, begin, end, zeros)
            sums = sums + power
            store_at(scores, at + k, is_fp32, power)
        share = broadcast(nb.float32(1.0) / reduce_sum(sums))
        for k in range(opening, end, LANES):
            store_at(scores, at + k, is_fp32, load_at(scores, at + k, is_fp32) * share)
        for k in range(0, opening, LANES):
            store_at(scores, at + k, is_fp32, zeros)
        for k in range((end + LANES - 1) // LANES * LANES, keys, LANES):
            store_at(scores, at + k, is_fp32, zeros)


@parallel
def causal_softmax_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of the scores, w · (g − Σ g w), in the place of those of the weights.

    weights, grads [N·queries, keys], queries, keys, start, wide.
    """
    weights, grads, queries, keys = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
    )
    start, is_fp32 = int_argument(table, 4), int_argument(table, 5)
    for row in range(first, last):
        at, seen = row * keys, start + row % queries + 1
        dots = broadcast(0.0)
        for k in range(0, seen, LANES):
            dots = fma(load_at(weights, at + k, is_fp32), load_at(grads, at + k, is_fp32), dots)
        dot = broadcast(reduce_sum(dots))
        for k in range(0, seen, LANES):
            store_at(
                grads,
                at + k,
                is_fp32,
                load_at(weights, at + k, is_fp32) * (load_at(grads, at + k, is_fp32) - dot),
            )
        for k in range((seen + LANES - 1) // LANES * LANES, keys, LANES):
            store_at(grads, at + k, is_fp32, broadcast(0.0))
