"""One token's attention over the cache: turn queries and keys by their positions, store keys and values, look back.

The cache is made of pages (generate/pages.py), each with PAGE tokens of one sequence; a page holds, for each layer and key/value head, in
bf16 or fp32:

    keys    [PAGE/16, D, 16] fp32, or [PAGE/16, D/2, 16, 2] bf16    tiles as of a matrix whose rows are tokens: 16 scores at once
    values  [PAGE, D]                                               a row for each token, added up with its share

all keys first. D is the head's width filled up with zeros to whole vectors.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, PAGE, State
from newleaf.kernels.exponential import exp
from newleaf.kernels.parts import kernel
from newleaf.kernels.vectors import (
    as_floats,
    fma,
    larger,
    largest,
    load,
    load_bfloat,
    load_bits,
    load_float,
    load_long,
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
def page_of(state: Any, slot: Any, position: Any, layer: Any, head: Any) -> Any:
    """Where a head's keys begin in the page that holds a position; its values stand PAGE_VALUES behind."""
    page = load_long(state[State.PAGES] + 8 * (slot * state[State.PAGE_COUNT] + position // PAGE))
    each = PAGE * state[State.HEAD_WIDTH] * (2 if state[State.CACHE_BF16] else 4)
    return page + (layer * state[State.KV_HEADS] + head) * each


@kernel
def remember(state: Any, layer: Any, slot: Any, head: Any, position: Any, key: Any, value: Any) -> None:
    """Store one head's key and value, fp32 [D], at a position."""
    width, dim = state[State.HEAD_WIDTH], state[State.HEAD_DIM]
    keys = page_of(state, slot, position, layer, head)
    values = keys + state[State.PAGE_VALUES]
    tile = position % PAGE // LANES * LANES * width
    lane, row = position % LANES, position % PAGE * width
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
    """Scores of sixteen tokens; four sums run side by side."""
    a, b, c, e = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
    if bf16:
        high, sixteen = spread_int(-0x10000), spread_int(16)
        for d in range(0, width, 4):
            pair, next_pair = load_bits(keys + 32 * d), load_bits(keys + 32 * d + 64)
            a = fma(as_floats(pair << sixteen), spread(load_float(query + 4 * d)), a)
            b = fma(as_floats(pair & high), spread(load_float(query + 4 * d + 4)), b)
            c = fma(as_floats(next_pair << sixteen), spread(load_float(query + 4 * d + 8)), c)
            e = fma(as_floats(next_pair & high), spread(load_float(query + 4 * d + 12)), e)
    else:
        for d in range(0, width, 4):
            a = fma(load(keys + 64 * d), spread(load_float(query + 4 * d)), a)
            b = fma(load(keys + 64 * d + 64), spread(load_float(query + 4 * d + 4)), b)
            c = fma(load(keys + 64 * d + 128), spread(load_float(query + 4 * d + 8)), c)
            e = fma(load(keys + 64 * d + 192), spread(load_float(query + 4 * d + 12)), e)
    return (a + b) + (c + e)


@kernel
def look_back(
    state: Any, layer: Any, slot: Any, head: Any, position: Any, window: Any, sink: Any, query: Any, scores: Any, out: Any
) -> None:
    """One query head over the tokens up to `position`, the last `window` of them if that is not 0; writes fp32 [D].

    `sink` is the address of the head's sink, or 0. `scores` has room for a float for each token of the cache, and a vector more.
    """
    width, bf16 = state[State.HEAD_WIDTH], state[State.CACHE_BF16]
    size = 2 if bf16 else 4
    kv_head = head // (state[State.HEADS] // state[State.KV_HEADS])
    first = max(0, position + 1 - window) if window else 0
    start, end = first // LANES * LANES, position // LANES * LANES + LANES
    for token in range(start, end, LANES):
        keys = page_of(state, slot, token, layer, kv_head) + size * (token % PAGE) * width
        store(scores + 4 * token, score_tile(keys, bf16, query, width))
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
    mix(state, layer, slot, kv_head, scores, first, position + 1, nb.float32(1.0) / all_, out)


@kernel
def exp_of_one(x: Any) -> Any:
    return total(exp(spread(x))) / nb.float32(LANES)


@kernel
def mix(state: Any, layer: Any, slot: Any, head: Any, shares: Any, first: Any, end: Any, scale: Any, out: Any) -> None:
    """The values of tokens `first` … `end` − 1, each times its share; sixteen of a head's dimensions at a time."""
    width, dim, bf16 = state[State.HEAD_WIDTH], state[State.HEAD_DIM], state[State.CACHE_BF16]
    size = 2 if bf16 else 4
    row = width * size
    for d in range(0, width, LANES):
        a, b, c, e = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
        start = first
        while start < end:
            last = min(end, start // PAGE * PAGE + PAGE)
            page = page_of(state, slot, start, layer, head) + state[State.PAGE_VALUES]
            base = page + size * d - start // PAGE * PAGE * row  # so that a token's number finds its row
            four = start + (last - start) // 4 * 4
            if bf16:
                for token in range(start, four, 4):
                    a = fma(load_bfloat(base + token * row), spread(load_float(shares + 4 * token)), a)
                    b = fma(load_bfloat(base + (token + 1) * row), spread(load_float(shares + 4 * token + 4)), b)
                    c = fma(load_bfloat(base + (token + 2) * row), spread(load_float(shares + 4 * token + 8)), c)
                    e = fma(load_bfloat(base + (token + 3) * row), spread(load_float(shares + 4 * token + 12)), e)
                for token in range(four, last):
                    a = fma(load_bfloat(base + token * row), spread(load_float(shares + 4 * token)), a)
            else:
                for token in range(start, four, 4):
                    a = fma(load(base + token * row), spread(load_float(shares + 4 * token)), a)
                    b = fma(load(base + (token + 1) * row), spread(load_float(shares + 4 * token + 4)), b)
                    c = fma(load(base + (token + 2) * row), spread(load_float(shares + 4 * token + 8)), c)
                    e = fma(load(base + (token + 3) * row), spread(load_float(shares + 4 * token + 12)), e)
                for token in range(four, last):
                    a = fma(load(base + token * row), spread(load_float(shares + 4 * token)), a)
            start = last
        result = ((a + b) + (c + e)) * spread(scale)
        if d + LANES <= dim:
            store(out + 4 * d, result)
        else:
            # The last piece must not touch the next head: it goes through the shares, which nobody needs any more.
            store(shares + 4 * first, result)
            for lane in range(dim - d):
                store_float(out + 4 * (d + lane), load_float(shares + 4 * (first + lane)))
