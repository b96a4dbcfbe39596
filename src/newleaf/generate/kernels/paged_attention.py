"""Attention of one query head over the pages of the KV cache; kv_pages.py has their layout."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.kv_pages import key_address
from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE, QueryGroup, State
from newleaf.kernels.compiler import kernel
from newleaf.kernels.exponential import exp
from newleaf.kernels.load_store import (
    load,
    load_bf16,
    load_bits,
    load_float,
    load_int,
    load_signed_bytes,
    store,
    store_float,
    store_int,
    store_low_bytes,
)  # fmt: skip
from newleaf.kernels.simd import (
    absolute,
    as_floats,
    broadcast,
    broadcast_int,
    dot_int8,
    fma,
    maximum,
    reduce_max,
    reduce_sum,
    reduce_sum_int,
    round_to_ints,
    to_floats,
)  # fmt: skip


@kernel
def score_tile_float(keys: Any, size: Any, query: Any, width: Any) -> Any:
    """Scores of sixteen tokens with fp32 or bf16 keys, by four independent sums."""
    a, b, c, e = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    if size == 2:
        high, sixteen = broadcast_int(-0x10000), broadcast_int(16)
        for d in range(0, width, 4):
            pair, next_pair = load_bits(keys + 32 * d), load_bits(keys + 32 * d + 64)
            a = fma(as_floats(pair << sixteen), broadcast(load_float(query + 4 * d)), a)
            b = fma(as_floats(pair & high), broadcast(load_float(query + 4 * d + 4)), b)
            c = fma(as_floats(next_pair << sixteen), broadcast(load_float(query + 4 * d + 8)), c)
            e = fma(as_floats(next_pair & high), broadcast(load_float(query + 4 * d + 12)), e)
    else:
        for d in range(0, width, 4):
            a = fma(load(keys + 64 * d), broadcast(load_float(query + 4 * d)), a)
            b = fma(load(keys + 64 * d + 64), broadcast(load_float(query + 4 * d + 4)), b)
            c = fma(load(keys + 64 * d + 128), broadcast(load_float(query + 4 * d + 8)), c)
            e = fma(load(keys + 64 * d + 192), broadcast(load_float(query + 4 * d + 12)), e)
    return (a + b) + (c + e)


@kernel
def quantize_query(query: Any, width: Any, out: Any) -> None:
    """A query as two bytes for each number, so that its rounding is small beside that of the keys.

    `out` gets `width` codes; `width` codes of the remainders, in units of 1/254; and a `QueryGroup` for each
    group. Its sums, times 128, are what the 128 in each code of a key adds.
    """
    groups = out + 2 * width
    for first in range(0, width, KEY_GROUP):
        end = min(width, first + KEY_GROUP)
        maxima = broadcast(0.0)
        for d in range(first, end, LANES):
            maxima = maximum(maxima, absolute(load(query + 4 * d)))
        largest = reduce_max(maxima)
        inverse = broadcast(nb.float32(127.0) / largest if largest > 1e-30 else nb.float32(0.0))
        sums, remainders = broadcast_int(0), broadcast_int(0)
        for d in range(first, end, LANES):
            x = load(query + 4 * d) * inverse
            code = round_to_ints(x)
            remainder = round_to_ints((x - to_floats(code)) * broadcast(254.0))
            store_low_bytes(out + d, code)
            store_low_bytes(out + width + d, remainder)
            sums, remainders = sums + code, remainders + remainder
        store_int(groups + QueryGroup.CODE_SUM, reduce_sum_int(sums))
        store_int(groups + QueryGroup.REMAINDER_SUM, reduce_sum_int(remainders))
        store_float(groups + QueryGroup.SCALE, largest / nb.float32(127.0))
        groups += QueryGroup.SIZE


@kernel
def score_tile_int8(keys: Any, codes: Any, width: Any, scales: Any) -> Any:
    """Scores of sixteen tokens with 8-bit keys, by the codes of `quantize_query`."""
    groups, seven, result = codes + 2 * width, broadcast_int(7), broadcast(0.0)
    for first in range(0, width, KEY_GROUP):
        a = broadcast_int(0) - (broadcast_int(load_int(groups + QueryGroup.CODE_SUM)) << seven)
        b = broadcast_int(0) - (broadcast_int(load_int(groups + QueryGroup.REMAINDER_SUM)) << seven)
        c, e = broadcast_int(0), broadcast_int(0)
        for d in range(first, min(width, first + KEY_GROUP), 8):
            four, next_four = load_bits(keys + 16 * d), load_bits(keys + 16 * d + 64)
            a = dot_int8(a, four, broadcast_int(load_int(codes + d)))
            b = dot_int8(b, four, broadcast_int(load_int(codes + width + d)))
            c = dot_int8(c, next_four, broadcast_int(load_int(codes + d + 4)))
            e = dot_int8(e, next_four, broadcast_int(load_int(codes + width + d + 4)))
        sums = fma(to_floats(b + e), broadcast(nb.float32(1.0 / 254.0)), to_floats(a + c))
        scale = broadcast(load_float(groups + QueryGroup.SCALE))
        result = fma(sums * scale, load(scales), result)
        groups, scales = groups + QueryGroup.SIZE, scales + 4 * PAGE
    return result


@kernel
def attend_head(
    state: Any, layer: Any, slot: Any, head: Any, position: Any, window: Any, sink: Any, query: Any,
    scores: Any, scratch: Any, out: Any,
) -> None:  # fmt: skip
    """One query head over the tokens up to `position`, or the last `window` of them; writes fp32 [D].

    `window` 0 is full attention. `sink` is the address of the head's attention sink, or 0. `scores` holds a
    float for each token of the cache and one vector more; `scratch` holds a quantized query.
    """
    width, size = state[State.HEAD_WIDTH], state[State.ELEMENT_BYTES]
    kv_head = head // (state[State.HEADS] // state[State.KV_HEADS])
    first = max(0, position + 1 - window) if window else 0
    start, end = first // LANES * LANES, position // LANES * LANES + LANES
    if size == 1:
        quantize_query(query, width, scratch)
    for token in range(start, end, LANES):
        page = key_address(state, slot, token, layer, kv_head)
        keys = page + size * (token % PAGE) * width
        if size == 1:
            scales = page + PAGE * width + 4 * (token % PAGE)
            store(scores + 4 * token, score_tile_int8(keys, scratch, width, scales))
        else:
            store(scores + 4 * token, score_tile_float(keys, size, query, width))
    # Mask the tokens of the first and the last tile that the query does not see.
    for token in range(start, first):
        store_float(scores + 4 * token, -1e30)
    for token in range(position + 1, end):
        store_float(scores + 4 * token, -1e30)
    top = broadcast(load_float(sink) if sink != 0 else nb.float32(-1e30))
    for token in range(start, end, LANES):
        top = maximum(top, load(scores + 4 * token))
    largest = reduce_max(top)
    top, sums = broadcast(largest), broadcast(0.0)
    for token in range(start, end, LANES):
        weight = exp(load(scores + 4 * token) - top)
        sums = sums + weight
        if size == 1:
            values = key_address(state, slot, token, layer, kv_head) + state[State.KEY_BYTES]
            weight = weight * load(values + PAGE * width + 4 * (token % PAGE))
        store(scores + 4 * token, weight)
    for token in range(start, first):
        store_float(scores + 4 * token, 0.0)
    total = reduce_sum(sums)
    if sink != 0:
        total += exp_scalar(load_float(sink) - largest)
    weighted_values(state, layer, slot, kv_head, scores, first, position + 1, nb.float32(1.0) / total, out)


@kernel
def exp_scalar(x: Any) -> Any:
    return reduce_sum(exp(broadcast(x))) / nb.float32(LANES)


@kernel
def weighted_values(
    state: Any, layer: Any, slot: Any, head: Any, weights: Any, first: Any, end: Any, scale: Any, out: Any
) -> None:
    """The values of tokens `first` … `end` − 1, each times its weight."""
    size = state[State.ELEMENT_BYTES]
    if size == 1:
        weighted_values_of(load_signed_bytes, 1, state, layer, slot, head, weights, first, end, scale, out)
    elif size == 2:
        weighted_values_of(load_bf16, 2, state, layer, slot, head, weights, first, end, scale, out)
    else:
        weighted_values_of(load, 4, state, layer, slot, head, weights, first, end, scale, out)


@kernel
def weighted_values_of(
    read: Any, size: Any, state: Any, layer: Any, slot: Any, head: Any, weights: Any, first: Any, end: Any,
    scale: Any, out: Any,
) -> None:  # fmt: skip
    """Sixteen of a head's dimensions at a time; `read` makes floats of sixteen numbers of `size` bytes."""
    width, dim = state[State.HEAD_WIDTH], state[State.HEAD_DIM]
    row = width * size
    for d in range(0, width, LANES):
        a, b, c, e = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        start = first
        while start < end:
            last = min(end, start // PAGE * PAGE + PAGE)
            page = key_address(state, slot, start, layer, head) + state[State.KEY_BYTES]
            base = page + size * d - start // PAGE * PAGE * row  # indexed by the token's number
            four = start + (last - start) // 4 * 4
            for token in range(start, four, 4):
                a = fma(read(base + token * row), broadcast(load_float(weights + 4 * token)), a)
                b = fma(read(base + (token + 1) * row), broadcast(load_float(weights + 4 * token + 4)), b)
                c = fma(read(base + (token + 2) * row), broadcast(load_float(weights + 4 * token + 8)), c)
                e = fma(read(base + (token + 3) * row), broadcast(load_float(weights + 4 * token + 12)), e)
            for token in range(four, last):
                a = fma(read(base + token * row), broadcast(load_float(weights + 4 * token)), a)
            start = last
        result = ((a + b) + (c + e)) * broadcast(scale)
        if d + LANES <= dim:
            store(out + 4 * d, result)
        else:
            # A full vector would overwrite the next head, so it goes through the weights, which are used up.
            store(weights + 4 * first, result)
            for lane in range(dim - d):
                store_float(out + 4 * (d + lane), load_float(weights + 4 * (first + lane)))
