"""Loops of a training step that PyTorch would take several passes for. Matrices are bf16 or fp32 (`wide`), sums are fp32.

Every loop is a function call(rows, portion, *values); its docstring names the values. Addresses are of contiguous memory.
"""

from __future__ import annotations

from typing import Any

import numba as nb
from numpy import exp as np_exp
from numpy import log as np_log
from numpy import sqrt as np_sqrt

from newleaf.kernels.exponential import exp
from newleaf.kernels.pool import parallel
from newleaf.kernels.vectors import (
    first_lanes,
    fma,
    kernel,
    larger,
    largest,
    load,
    load_bfloat,
    load_float,
    load_long,
    load_one_bfloat,
    reciprocal,
    spread,
    store,
    store_bfloat,
    store_float,
    store_one_bfloat,
    total,
)  # fmt: skip

LANES = 16
TWICE, CUBE = 2 * 0.7978845608028654, 0.044715  # of GELU by tanh


@kernel
def given(table: Any, number: Any) -> Any:
    """One of the values that a loop was called with."""
    return load_long(table + 8 * number)


@kernel
def fraction(table: Any, number: Any) -> Any:
    """One that stands there as an fp32's bits."""
    return load_float(table + 8 * number)


@kernel
def get(base: Any, k: Any, wide: Any) -> Any:
    """16 numbers from the k-th on."""
    return load(base + 4 * k) if wide else load_bfloat(base + 2 * k)


@kernel
def put(base: Any, k: Any, wide: Any, value: Any) -> None:
    if wide:
        store(base + 4 * k, value)
    else:
        store_bfloat(base + 2 * k, value)


@kernel
def get_one(base: Any, k: Any, wide: Any) -> Any:
    return load_float(base + 4 * k) if wide else load_one_bfloat(base + 2 * k)


@kernel
def put_one(base: Any, k: Any, wide: Any, value: Any) -> None:
    if wide:
        store_float(base + 4 * k, value)
    else:
        store_one_bfloat(base + 2 * k, value)


@parallel
def swiglu_forward(table: Any, first: Any, last: Any) -> None:
    """out = silu(gate) · up over rows of `width`. gate_up [rows, 2·width], out [rows, width], width, wide."""
    both, out, width, wide = given(table, 0), given(table, 1), given(table, 2), given(table, 3)
    one = spread(1.0)
    for row in range(first, last):
        gates, ups, outs = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate = get(both, gates + k, wide)
            put(out, outs + k, wide, gate * reciprocal(one + exp(spread(0.0) - gate)) * get(both, ups + k, wide))


@parallel
def swiglu_backward(table: Any, first: Any, last: Any) -> None:
    """The slopes of gate and up. gate_up [rows, 2·width], grad [rows, width], out [rows, 2·width], width, wide."""
    both, grad, out, width, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    one = spread(1.0)
    for row in range(first, last):
        gates, ups, grads = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate, up, g = get(both, gates + k, wide), get(both, ups + k, wide), get(grad, grads + k, wide)
            sigmoid = reciprocal(one + exp(spread(0.0) - gate))
            silu = gate * sigmoid
            put(out, gates + k, wide, g * up * sigmoid * (one + gate - silu))
            put(out, ups + k, wide, g * silu)


@parallel
def cross_entropy(table: Any, first: Any, last: Any) -> None:
    """Each row's loss, and its logits turned into softmax − one-hot.

    logits [rows, width], targets int64 [rows], losses fp32 [rows], width, wide. A target below 0 does not count: loss and slope are zero.
    """
    logits, targets, losses = given(table, 0), given(table, 1), given(table, 2)
    width, wide = given(table, 3), given(table, 4)
    whole = width // LANES * LANES
    for row in range(first, last):
        at, target = row * width, load_long(targets + 8 * row)
        if target < 0:
            store_float(losses + 4 * row, nb.float32(0.0))
            for k in range(0, whole, LANES):
                put(logits, at + k, wide, spread(0.0))
            for k in range(whole, width):
                put_one(logits, at + k, wide, nb.float32(0.0))
            continue
        tops = spread(-3.0e38)
        for k in range(0, whole, LANES):
            tops = larger(tops, get(logits, at + k, wide))
        top = largest(tops)
        for k in range(whole, width):
            top = max(top, get_one(logits, at + k, wide))
        sums, off = spread(0.0), spread(top)
        for k in range(0, whole, LANES):
            sums = sums + exp(get(logits, at + k, wide) - off)
        sum_ = total(sums)
        for k in range(whole, width):
            sum_ += nb.float32(np_exp(get_one(logits, at + k, wide) - top))
        store_float(losses + 4 * row, nb.float32(np_log(sum_)) + top - get_one(logits, at + target, wide))
        share = nb.float32(1.0) / sum_
        shares = spread(share)
        hit = nb.float32(np_exp(get_one(logits, at + target, wide) - top)) * share - nb.float32(1.0)
        for k in range(0, whole, LANES):
            put(logits, at + k, wide, exp(get(logits, at + k, wide) - off) * shares)
        for k in range(whole, width):
            put_one(logits, at + k, wide, nb.float32(np_exp(get_one(logits, at + k, wide) - top)) * share)
        put_one(logits, at + target, wide, hit)


@parallel
def gelu_forward(table: Any, first: Any, last: Any) -> None:
    """GELU by tanh, x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³). x, out [rows, width], width, wide."""
    x, out, width, wide = given(table, 0), given(table, 1), given(table, 2), given(table, 3)
    one = spread(1.0)
    for k in range(first * width, last * width, LANES):
        value = get(x, k, wide)
        inner = value * fma(value * value, spread(TWICE * CUBE), spread(TWICE))
        put(out, k, wide, value * reciprocal(one + exp(spread(0.0) - inner)))


@parallel
def gelu_backward(table: Any, first: Any, last: Any) -> None:
    """out = grad · GELU'(x). x, grad, out [rows, width], width, wide."""
    x, grad, out, width, wide = given(table, 0), given(table, 1), given(table, 2), given(table, 3), given(table, 4)
    one = spread(1.0)
    for k in range(first * width, last * width, LANES):
        value = get(x, k, wide)
        square = value * value
        sigmoid = reciprocal(one + exp(spread(0.0) - value * fma(square, spread(TWICE * CUBE), spread(TWICE))))
        slope = value * fma(square, spread(3 * TWICE * CUBE), spread(TWICE)) * (one - sigmoid)
        put(out, k, wide, get(grad, k, wide) * sigmoid * (one + slope))


@parallel
def rms_norm_forward(table: Any, first: Any, last: Any) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight. x, out [rows, width], weight fp32 [width], width, wide, eps (its fp32 bits)."""
    x, out, weight, width, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    epsilon = fraction(table, 5)
    for row in range(first, last):
        at = row * width
        scale = spread(inverse_root(x, at, width, wide, epsilon))
        for k in range(0, width, LANES):
            put(out, at + k, wide, get(x, at + k, wide) * scale * load(weight + 4 * k))


@parallel
def rms_norm_backward(table: Any, first: Any, last: Any) -> None:
    """x, grad, out [rows, width], weight fp32 [width], weight_grads fp32 [portions, width] of zeros, portion, width, wide, eps.

    The norm removes x's own direction: only what is orthogonal to it flows back.
    """
    x, grad, out, weight, sums = given(table, 0), given(table, 1), given(table, 2), given(table, 3), given(table, 4)
    portion, width, wide, epsilon = given(table, 5), given(table, 6), given(table, 7), fraction(table, 8)
    sums += 4 * width * (first // portion)
    for row in range(first, last):
        at = row * width
        one_scale = inverse_root(x, at, width, wide, epsilon)
        scale, along = spread(one_scale), spread(0.0)
        for k in range(0, width, LANES):
            g = get(grad, at + k, wide)
            unit = get(x, at + k, wide) * scale
            store(sums + 4 * k, fma(g, unit, load(sums + 4 * k)))
            along = fma(g * load(weight + 4 * k), unit, along)
        mean = spread(total(along) / nb.float32(width))
        for k in range(0, width, LANES):
            g = get(grad, at + k, wide) * load(weight + 4 * k)
            put(out, at + k, wide, scale * (g - get(x, at + k, wide) * scale * mean))


@kernel
def inverse_root(x: Any, at: Any, width: Any, wide: Any, epsilon: Any) -> Any:
    """1 / sqrt(mean(x²) + eps) of one vector."""
    squares = spread(0.0)
    for k in range(0, width, LANES):
        value = get(x, at + k, wide)
        squares = fma(value, value, squares)
    return nb.float32(1.0) / nb.float32(np_sqrt(total(squares) / nb.float32(width) + epsilon))


@parallel
def heads_forward(table: Any, first: Any, last: Any) -> None:
    """Queries, keys and values of each token, from its row to its heads; with QK norm and rotary positions where their tables are not 0.

    qkv [B·T, 3·H·D]; q, k, v [B, H, T, D]; q_norm, k_norm fp32 [D]; cos, sin fp32 [T, D]; T, H, D, wide, eps, scale of q (fp32 bits).
    """
    qkv, norms, tables = given(table, 0), table + 32, table + 48
    length, heads, dim, wide = given(table, 8), given(table, 9), given(table, 10), given(table, 11)
    epsilon, query_scale = fraction(table, 12), fraction(table, 13)
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        for part in range(3):
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * time, load_long(tables + 8) + 4 * dim * time
            turns = load_long(tables) != 0 and part < 2
            for head in range(heads):
                at, to = ((3 * row + part) * heads + head) * dim, ((batch * heads + head) * length + time) * dim
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
    """The way back of `heads_forward`: same values, with the slopes of q, k and v, then qkv's slope to write and norm slopes to add to.

    … as there, then qkv_grad [B·T, 3·H·D], norm_grads fp32 [portions, 2, D] of zeros, portion.
    """
    qkv, norms, tables = given(table, 0), table + 32, table + 48
    length, heads, dim, wide = given(table, 8), given(table, 9), given(table, 10), given(table, 11)
    epsilon, query_scale = fraction(table, 12), fraction(table, 13)
    out, sums, portion = given(table, 14), given(table, 15), given(table, 16)
    half = dim // 2
    for row in range(first, last):
        batch, time = row // length, row % length
        for part in range(3):
            base = load_long(table + 8 + 8 * part)
            weight = load_long(norms + 8 * part) if part < 2 else 0
            cos, sin = load_long(tables) + 4 * dim * time, load_long(tables + 8) + 4 * dim * time
            turns = load_long(tables) != 0 and part < 2
            mine = sums + 4 * dim * (2 * (first // portion) + part)
            factor = spread(query_scale if part == 0 else nb.float32(1.0))
            for head in range(heads):
                at, of = ((3 * row + part) * heads + head) * dim, ((batch * heads + head) * length + time) * dim
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
                        put(out, at + k, wide, scale * (get(out, at + k, wide) - get(qkv, at + k, wide) * scale * mean))


@parallel
def causal_softmax_forward(table: Any, first: Any, last: Any) -> None:
    """Softmax of each row over the keys that its query may see, in place; zeros after them.

    scores [N·queries, keys], queries, keys, start (the first query's place among the keys), wide.
    """
    scores, queries, keys, start, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    nothing = spread(-3.0e38)
    for row in range(first, last):
        at, seen = row * keys, start + row % queries + 1
        whole, tail = seen // LANES * LANES, nb.int32(seen % LANES)
        tops = nothing
        for k in range(0, whole, LANES):
            tops = larger(tops, get(scores, at + k, wide))
        if tail:
            tops = larger(tops, first_lanes(get(scores, at + whole, wide), tail, nothing))
        top, sums = spread(largest(tops)), spread(0.0)
        for k in range(0, whole, LANES):
            power = exp(get(scores, at + k, wide) - top)
            sums = sums + power
            put(scores, at + k, wide, power)
        if tail:
            power = first_lanes(exp(get(scores, at + whole, wide) - top), tail, spread(0.0))
            sums = sums + power
            put(scores, at + whole, wide, power)
            whole += LANES
        share = spread(nb.float32(1.0) / total(sums))
        for k in range(0, whole, LANES):
            put(scores, at + k, wide, get(scores, at + k, wide) * share)
        for k in range(whole, keys, LANES):
            put(scores, at + k, wide, spread(0.0))


@parallel
def causal_softmax_backward(table: Any, first: Any, last: Any) -> None:
    """The slopes of the scores, w · (g − Σ g w), in the place of those of the weights.

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
