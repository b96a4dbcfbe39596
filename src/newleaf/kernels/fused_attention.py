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
from newleaf.kernels.load_store import fraction, given, load, load_int, load_long, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import get, inverse_root, put
from newleaf.kernels.simd import first_lanes, fma, larger, largest, spread, total


@parallel
def heads_forward(table: Any, first: Any, last: Any) -> None:
    """Queries, keys and values of each token, from its row to its heads; with QK norm and rotary positions
    where their tables are not 0.

    qkv [B·T, (H + 2 K)·D]; q [B, H, T, D]; k, v [B, K, T, D]; q_norm, k_norm fp32 [D]; cos, sin fp32 [T, D];
    T, H, D, wide, eps, scale of q (fp32 bits), K; begins (int32 [B, T]: where the document of a token begins,
    or 0).
    """
    qkv, norms, tables = given(table, 0), table + 32, table + 48
    length, all_heads, dim, wide, kv_heads = (
        given(table, 8),
        given(table, 9),
        given(table, 10),
        given(table, 11),
        given(table, 14),
    )
    epsilon, query_scale, begins = fraction(table, 12), fraction(table, 13), given(table, 15)
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(begins + 4 * row) if begins != 0 else time
        for part in range(3):
            heads = all_heads if part == 0 else kv_heads
            before = 0 if part == 0 else all_heads + (part - 1) * kv_heads
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * position, load_long(tables + 8) + 4 * dim * position
            turns = load_long(tables) != 0 and part < 2
            for head in range(heads):
                at, to = (
                    (row * (all_heads + 2 * kv_heads) + before + head) * dim,
                    ((batch * heads + head) * length + time) * dim,
                )
                scale = query_scale if part == 0 else nb.float32(1.0)
                if weight != 0:
                    scale *= inverse_root(qkv, at, dim, wide, epsilon)
                scales = spread(scale)
                for k in range(0, half, LANES):
                    left, right = get(qkv, at + k, wide) * scales, get(qkv, at + half + k, wide) * scales
                    if weight != 0:
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                    if turns:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = left * c - right * s, fma(left, s, right * c)
                    put(base, to + k, wide, left)
                    put(base, to + half + k, wide, right)


@parallel
def heads_backward(table: Any, first: Any, last: Any) -> None:
    """The way back of `heads_forward`: same values, with the gradients of q, k and v, then qkv's gradient to
    write and norm gradients to add to.

    … as there, then qkv_grad [B·T, (H + 2 K)·D], norm_grads fp32 [chunks, 2, D] of zeros, chunk.
    """
    qkv, norms, tables = given(table, 0), table + 32, table + 48
    length, all_heads, dim, wide, kv_heads = (
        given(table, 8),
        given(table, 9),
        given(table, 10),
        given(table, 11),
        given(table, 14),
    )
    epsilon, query_scale = fraction(table, 12), fraction(table, 13)
    begins, out, sums, chunk = given(table, 15), given(table, 16), given(table, 17), given(table, 18)
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        position = time - load_int(begins + 4 * row) if begins != 0 else time
        for part in range(3):
            heads = all_heads if part == 0 else kv_heads
            before = 0 if part == 0 else all_heads + (part - 1) * kv_heads
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * position, load_long(tables + 8) + 4 * dim * position
            turns = load_long(tables) != 0 and part < 2
            mine = sums + 4 * dim * (2 * (first // chunk) + part)
            factor = spread(query_scale if part == 0 else nb.float32(1.0))
            for head in range(heads):
                at, of = (
                    (row * (all_heads + 2 * kv_heads) + before + head) * dim,
                    ((batch * heads + head) * length + time) * dim,
                )
                scale, along = spread(1.0), spread(0.0)
                if weight != 0:
                    scale = spread(inverse_root(qkv, at, dim, wide, epsilon))
                for k in range(0, half, LANES):
                    left, right = get(base, of + k, wide) * factor, get(base, of + half + k, wide) * factor
                    if turns:
                        c, s = load(cos + 4 * k), load(sin + 4 * k)
                        left, right = fma(right, s, left * c), right * c - left * s
                    if weight != 0:
                        x, y = get(qkv, at + k, wide) * scale, get(qkv, at + half + k, wide) * scale
                        store(mine + 4 * k, fma(left, x, load(mine + 4 * k)))
                        store(mine + 4 * (half + k), fma(right, y, load(mine + 4 * (half + k))))
                        left, right = left * load(weight + 4 * k), right * load(weight + 4 * (half + k))
                        along = fma(left, x, fma(right, y, along))
                    put(out, at + k, wide, left)
                    put(out, at + half + k, wide, right)
                if weight != 0:
                    mean = spread(total(along) / nb.float32(dim))
                    for k in range(0, dim, LANES):
                        put(
                            out,
                            at + k,
                            wide,
                            scale * (get(out, at + k, wide) - get(qkv, at + k, wide) * scale * mean),
                        )


@kernel
def _seen(values: Any, key: Any, begin: Any, end: Any, other: Any) -> Any:
    """The lanes whose keys, counted from `key`, lie from `begin` to before `end`; `other` in the rest."""
    return first_lanes(other, nb.int32(begin - key), first_lanes(values, nb.int32(end - key), other))


@parallel
def causal_softmax_forward(table: Any, first: Any, last: Any) -> None:
    """Softmax of each row over the keys that its query may see, in place; zeros for the others.

    scores [N·queries, keys], queries, keys, start (the first query's place among the keys), wide; begins
    (int32 [B, T]: where the document of a query begins, from the first query on; 0 where all see the first
    key), T, the first key's place, rows of a text.
    """
    scores, queries, keys, start, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    begins, length, before, own = given(table, 5), given(table, 6), given(table, 7), given(table, 8)
    nothing, zeros = spread(-3.0e38), spread(0.0)
    for row in range(first, last):
        at, begin, end = row * keys, 0, start + row % queries + 1
        if begins != 0:
            begin = load_int(begins + 4 * (row // own * length + row % queries)) - before
        opening = begin // LANES * LANES
        tops, sums = nothing, zeros
        for k in range(opening, end, LANES):
            tops = larger(tops, _seen(get(scores, at + k, wide), k, begin, end, nothing))
        top = spread(largest(tops))
        for k in range(opening, end, LANES):
            power = _seen(exp(get(scores, at + k, wide) - top), k, begin, end, zeros)
            sums = sums + power
            put(scores, at + k, wide, power)
        share = spread(nb.float32(1.0) / total(sums))
        for k in range(opening, end, LANES):
            put(scores, at + k, wide, get(scores, at + k, wide) * share)
        for k in range(0, opening, LANES):
            put(scores, at + k, wide, zeros)
        for k in range((end + LANES - 1) // LANES * LANES, keys, LANES):
            put(scores, at + k, wide, zeros)


@parallel
def causal_softmax_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of the scores, w · (g − Σ g w), in the place of those of the weights.

    weights, grads [N·queries, keys], queries, keys, start, wide.
    """
    weights, grads, queries, keys = given(table, 0), given(table, 1), given(table, 2), given(table, 3)
    start, wide = given(table, 4), given(table, 5)
    for row in range(first, last):
        at, seen = row * keys, start + row % queries + 1
        dots = spread(0.0)
        for k in range(0, seen, LANES):
            dots = fma(get(weights, at + k, wide), get(grads, at + k, wide), dots)
        dot = spread(total(dots))
        for k in range(0, seen, LANES):
            put(grads, at + k, wide, get(weights, at + k, wide) * (get(grads, at + k, wide) - dot))
        for k in range((seen + LANES - 1) // LANES * LANES, keys, LANES):
            put(grads, at + k, wide, spread(0.0))
