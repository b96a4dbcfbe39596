"""One token's attention over the cache: turn queries and keys by their positions, store keys and values, look back.

The cache holds, for each layer, slot (a sequence) and key/value head, in bf16 or fp32:

    keys    [tokens/16, D, 16] fp32, or [tokens/16, D/2, 16, 2] bf16    tiles as of a matrix whose rows are tokens: 16 scores at once
    values  [tokens, D]                                             a row for each token, added up with its share

D is the head's width filled up with zeros to whole vectors.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, State
from newleaf.kernels.exponential import exp
from newleaf.kernels.vectors import (
    as_floats,
    fma,
    kernel,
    larger,
    largest,
    load,
    load_bfloat,
    load_bits,
    load_float,
    spread,
    spread_int,
    store,
    store_float,
    store_one_bfloat,
    total,
)  # fmt: skip


@kernel
def turn(x: Any, out: Any, dim: Any, weight: Any, epsilon: Any, cosines: Any, sines: Any, dims: Any, interleaved: Any, scale: Any) -> None:
    """One head: RMS norm where `weight` is given, rotation of the first `dims` where tables are, times `scale`."""
    factor = scale
    if weight != 0:
        square = nb.float32(0.0)
        for d in range(dim):
            square += load_float(x + 4 * d) * load_float(x + 4 * d)
        factor = scale / nb.float32(nb.float32(square / nb.float32(dim) + epsilon) ** nb.float32(0.5))
    for d in range(dim):
        value = load_float(x + 4 * d) * factor
        store_float(out + 4 * d, value * load_float(weight + 4 * d) if weight != 0 else value)
    if cosines != 0:
        half = dims // 2
        for pair in range(half):
            left, right = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half)
            a, b = load_float(out + 4 * left), load_float(out + 4 * right)
            cos, sin = load_float(cosines + 4 * pair), load_float(sines + 4 * pair)
            store_float(out + 4 * left, a * cos - b * sin)
            store_float(out + 4 * right, b * cos + a * sin)


@kernel
def head_offset(state: Any, layer: Any, slot: Any, head: Any) -> Any:
    """Where a head's keys, or its values, begin in the cache, in elements."""
    return ((layer * state[State.SLOTS] + slot) * state[State.KV_HEADS] + head) * state[State.CACHE_LENGTH] * state[State.HEAD_WIDTH]


@kernel
def remember(state: Any, layer: Any, slot: Any, head: Any, position: Any, key: Any, value: Any) -> None:
    """Store one head's key and value, fp32 [D], at a position."""
    width, dim = state[State.HEAD_WIDTH], state[State.HEAD_DIM]
    offset = head_offset(state, layer, slot, head)
    tile = offset + position // LANES * LANES * width
    lane, row = position % LANES, offset + position * width
    keys, values = state[State.KEYS], state[State.VALUES]
    if state[State.CACHE_BF16]:
        for d in range(dim):
            store_one_bfloat(keys + 2 * (tile + (d // 2 * LANES + lane) * 2 + d % 2), load_float(key + 4 * d))
            store_one_bfloat(values + 2 * (row + d), load_float(value + 4 * d))
    else:
        for d in range(dim):
            store_float(keys + 4 * (tile + d * LANES + lane), load_float(key + 4 * d))
            store_float(values + 4 * (row + d), load_float(value + 4 * d))


@kernel
def score_tile(keys: Any, bf16: Any, query: Any, width: Any) -> Any:
    """Scores of sixteen tokens."""
    even, odd = spread(0.0), spread(0.0)
    if bf16:
        high, sixteen = spread_int(-0x10000), spread_int(16)
        for d in range(0, width, 2):
            pair = load_bits(keys + 32 * d)
            even = fma(as_floats(pair << sixteen), spread(load_float(query + 4 * d)), even)
            odd = fma(as_floats(pair & high), spread(load_float(query + 4 * d + 4)), odd)
    else:
        for d in range(0, width, 2):
            even = fma(load(keys + 64 * d), spread(load_float(query + 4 * d)), even)
            odd = fma(load(keys + 64 * d + 64), spread(load_float(query + 4 * d + 4)), odd)
    return even + odd


@kernel
def look_back(
    state: Any, layer: Any, slot: Any, head: Any, position: Any, window: Any, sink: Any, query: Any, scores: Any, out: Any
) -> None:
    """One query head over the tokens up to `position`, the last `window` of them if that is not 0; writes fp32 [D].

    `sink` is the address of the head's sink, or 0. `scores` has room for a float for each token of the cache, and a vector more.
    """
    width, dim, bf16 = state[State.HEAD_WIDTH], state[State.HEAD_DIM], state[State.CACHE_BF16]
    size = 2 if bf16 else 4
    kv_head = head // (state[State.HEADS] // state[State.KV_HEADS])
    offset = size * head_offset(state, layer, slot, kv_head)
    keys, values = state[State.KEYS] + offset, state[State.VALUES] + offset
    first = max(0, position + 1 - window) if window else 0
    start, end = first // LANES * LANES, position // LANES * LANES + LANES
    for token in range(start, end, LANES):
        store(scores + 4 * token, score_tile(keys + size * token * width, bf16, query, width))
    # Tokens of the first and the last tile that are not to be seen.
    for token in range(start, first):
        store_float(scores + 4 * token, -1e30)
    for token in range(position + 1, end):
        store_float(scores + 4 * token, -1e30)
    top = spread(load_float(sink) if sink != 0 else nb.float32(-1e30))
    for token in range(start, end, LANES):
        top = larger(top, load(scores + 4 * token))
    most = largest(top)
    top, sums = spread(most), spread(0.0)
    for token in range(start, end, LANES):
        share = exp(load(scores + 4 * token) - top)
        sums = sums + share
        store(scores + 4 * token, share)
    for token in range(start, first):
        store_float(scores + 4 * token, 0.0)
    all_ = total(sums)
    if sink != 0:
        all_ += exp_of_one(load_float(sink) - most)
    mix(values, bf16, scores, first, position + 1, width, dim, nb.float32(1.0) / all_, out)


@kernel
def exp_of_one(x: Any) -> Any:
    return total(exp(spread(x))) / nb.float32(LANES)


@kernel
def mix(values: Any, bf16: Any, shares: Any, first: Any, end: Any, width: Any, dim: Any, scale: Any, out: Any) -> None:
    """The values of tokens `first` … `end` − 1, each times its share; sixteen of a head's dimensions at a time."""
    row = width * (2 if bf16 else 4)
    for d in range(0, width, LANES):
        a, b, c, e = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
        base = values + (2 if bf16 else 4) * d
        four = first + (end - first) // 4 * 4
        if bf16:
            for token in range(first, four, 4):
                a = fma(load_bfloat(base + token * row), spread(load_float(shares + 4 * token)), a)
                b = fma(load_bfloat(base + (token + 1) * row), spread(load_float(shares + 4 * token + 4)), b)
                c = fma(load_bfloat(base + (token + 2) * row), spread(load_float(shares + 4 * token + 8)), c)
                e = fma(load_bfloat(base + (token + 3) * row), spread(load_float(shares + 4 * token + 12)), e)
            for token in range(four, end):
                a = fma(load_bfloat(base + token * row), spread(load_float(shares + 4 * token)), a)
        else:
            for token in range(first, four, 4):
                a = fma(load(base + token * row), spread(load_float(shares + 4 * token)), a)
                b = fma(load(base + (token + 1) * row), spread(load_float(shares + 4 * token + 4)), b)
                c = fma(load(base + (token + 2) * row), spread(load_float(shares + 4 * token + 8)), c)
                e = fma(load(base + (token + 3) * row), spread(load_float(shares + 4 * token + 12)), e)
            for token in range(four, end):
                a = fma(load(base + token * row), spread(load_float(shares + 4 * token)), a)
        result = ((a + b) + (c + e)) * spread(scale)
        if d + LANES <= dim:
            store(out + 4 * d, result)
        else:
            # The last piece must not touch the next head: it goes through the shares, which nobody needs any more.
            store(shares + 4 * first, result)
            for lane in range(dim - d):
                store_float(out + 4 * (d + lane), load_float(shares + 4 * (first + lane)))
