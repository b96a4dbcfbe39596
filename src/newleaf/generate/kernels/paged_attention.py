"""One token's attention over the cache: turn queries and keys by their positions, store keys and values, look
back.

The cache is made of pages (generate/kv/paged_cache.py), each with PAGE tokens of one sequence. A page holds,
for each of some layers and each key/value head, in fp32, bf16 or 8 bits:

    keys    [PAGE/16, D, 16] fp32, [PAGE/16, D/2, 16, 2] bf16, or [PAGE/16, D/4, 16, 4] bytes
            tiles as of a matrix whose rows are tokens: 16 scores at once
    values  [PAGE, D]       a row for each token, added up with its share

D is the head's width filled up with zeros to whole vectors. In 8 bits, the codes of keys are followed by fp32
scales [D/GROUP, PAGE], those of values by [PAGE]: a number is its scale, a 127th of the group's or token's
largest, times its code, which has 128 added in keys.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE, State
from newleaf.kernels.compiler import kernel
from newleaf.kernels.exponential import exp
from newleaf.kernels.load_store import (
    load,
    load_bf16,
    load_bits,
    load_float,
    load_int,
    load_long,
    load_signed_bytes,
    store,
    store_byte,
    store_float,
    store_int,
    store_low_bytes,
    store_one_bf16,
)
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
    round_to_int,
    round_to_ints,
    to_floats,
)


@kernel
def norm_and_rope(
    x: Any,
    out: Any,
    dim: Any,
    weight: Any,
    epsilon: Any,
    cosines: Any,
    sines: Any,
    dims: Any,
    interleaved: Any,
    scale: Any,
) -> None:
    """One head: RMS norm where `weight` is given, rotation of the first `dims` where tables are, times
    `scale`."""
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
def key_address(state: Any, slot: Any, position: Any, layer: Any, head: Any) -> Any:
    """Where a head's keys begin in the page that holds a position; its values stand KEY_BYTES behind."""
    row = state[State.LAYERS] + 16 * layer
    page = load_long(load_long(row) + 8 * (slot * state[State.PAGE_COUNT] + position // PAGE))
    return page + load_long(row + 8) + head * state[State.HEAD_BYTES]


@kernel
def store_key_value(
    state: Any, layer: Any, slot: Any, head: Any, position: Any, key: Any, value: Any
) -> None:
    """Store one head's key and value, fp32 [D], at a position."""
    width, dim, size = state[State.HEAD_WIDTH], state[State.HEAD_DIM], state[State.ELEMENT_BYTES]
    keys = key_address(state, slot, position, layer, head)
    values = keys + state[State.KEY_BYTES]
    tile = position % PAGE // LANES * LANES * width
    lane, row = position % LANES, position % PAGE * width
    if size == 1:
        scales = PAGE * width + 4 * (position % PAGE)
        for first in range(0, dim, KEY_GROUP):
            end = min(dim, first + KEY_GROUP)
            inverse = store_scale(
                key + 4 * first, end - first, keys + scales + 4 * PAGE * (first // KEY_GROUP)
            )
            for d in range(first, end):
                store_byte(
                    keys + tile + (d // 4 * LANES + lane) * 4 + d % 4,
                    round_to_int(load_float(key + 4 * d) * inverse) + 128,
                )
        inverse = store_scale(value, dim, values + scales)
        for d in range(dim):
            store_byte(values + row + d, round_to_int(load_float(value + 4 * d) * inverse))
    elif size == 2:
        for d in range(dim):
            store_one_bf16(keys + 2 * (tile + (d // 2 * LANES + lane) * 2 + d % 2), load_float(key + 4 * d))
            store_one_bf16(values + 2 * (row + d), load_float(value + 4 * d))
    else:
        for d in range(dim):
            store_float(keys + 4 * (tile + d * LANES + lane), load_float(key + 4 * d))
            store_float(values + 4 * (row + d), load_float(value + 4 * d))


@kernel
def store_scale(x: Any, dim: Any, scale: Any) -> Any:
    """Store what a code of 1 stands for in x, fp32 [dim]; returns what numbers are multiplied by to become
    codes."""
    top = nb.float32(0.0)
    for d in range(dim):
        top = max(top, abs(load_float(x + 4 * d)))
    store_float(scale, top / nb.float32(127.0))
    return nb.float32(127.0) / top if top > 1e-30 else nb.float32(0.0)


@kernel
def score_tile_float(keys: Any, size: Any, query: Any, width: Any) -> Any:
    """Scores of sixteen tokens, fp32 or bf16; four sums run side by side."""
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
    """A query as two bytes for each number, so that its rounding is lost in that of the keys: `width` bytes,
    then as many for what these leave over, in 254ths; then for each group both sums, which times 128 are what
    the keys' 128 add, and what a 1 stands for."""
    about = out + 2 * width
    for first in range(0, width, KEY_GROUP):
        end = min(width, first + KEY_GROUP)
        top = broadcast(0.0)
        for d in range(first, end, LANES):
            top = maximum(top, absolute(load(query + 4 * d)))
        most = reduce_max(top)
        inverse = broadcast(nb.float32(127.0) / most if most > 1e-30 else nb.float32(0.0))
        sums, rests = broadcast_int(0), broadcast_int(0)
        for d in range(first, end, LANES):
            x = load(query + 4 * d) * inverse
            code = round_to_ints(x)
            rest = round_to_ints((x - to_floats(code)) * broadcast(254.0))
            store_low_bytes(out + d, code)
            store_low_bytes(out + width + d, rest)
            sums, rests = sums + code, rests + rest
        store_int(about, reduce_sum_int(sums))
        store_int(about + 4, reduce_sum_int(rests))
        store_float(about + 8, most / nb.float32(127.0))
        about += 12


@kernel
def score_tile_int8(keys: Any, codes: Any, width: Any, scales: Any) -> Any:
    """Scores of sixteen tokens in 8 bits, by a query that was split."""
    about, seven, found = codes + 2 * width, broadcast_int(7), broadcast(0.0)
    for first in range(0, width, KEY_GROUP):
        a = broadcast_int(0) - (broadcast_int(load_int(about)) << seven)
        b = broadcast_int(0) - (broadcast_int(load_int(about + 4)) << seven)
        c, e = broadcast_int(0), broadcast_int(0)
        for d in range(first, min(width, first + KEY_GROUP), 8):
            four, next_four = load_bits(keys + 16 * d), load_bits(keys + 16 * d + 64)
            a = dot_int8(a, four, broadcast_int(load_int(codes + d)))
            b = dot_int8(b, four, broadcast_int(load_int(codes + width + d)))
            c = dot_int8(c, next_four, broadcast_int(load_int(codes + d + 4)))
            e = dot_int8(e, next_four, broadcast_int(load_int(codes + width + d + 4)))
        sums = fma(to_floats(b + e), broadcast(nb.float32(1.0 / 254.0)), to_floats(a + c))
        found = fma(sums * broadcast(load_float(about + 8)), load(scales), found)
        about, scales = about + 12, scales + 4 * PAGE
    return found


@kernel
def attend_head(
    state: Any,
    layer: Any,
    slot: Any,
    head: Any,
    position: Any,
    window: Any,
    sink: Any,
    query: Any,
    scores: Any,
    scratch: Any,
    out: Any,
) -> None:
    """One query head over the tokens up to `position`, the last `window` of them if that is not 0; writes
    fp32 [D].

    `sink` is the address of the head's sink, or 0. `scores` has room for a float for each token of the cache,
    and a vector more; `scratch` for three bytes for each of the head's numbers.
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
            store(
                scores + 4 * token,
                score_tile_int8(keys, scratch, width, page + PAGE * width + 4 * (token % PAGE)),
            )
        else:
            store(scores + 4 * token, score_tile_float(keys, size, query, width))
    # Tokens of the first and the last tile that are not to be seen.
    for token in range(start, first):
        store_float(scores + 4 * token, -1e30)
    for token in range(position + 1, end):
        store_float(scores + 4 * token, -1e30)
    top = broadcast(load_float(sink) if sink != 0 else nb.float32(-1e30))
    for token in range(start, end, LANES):
        top = maximum(top, load(scores + 4 * token))
    most = reduce_max(top)
    top, sums = broadcast(most), broadcast(0.0)
    for token in range(start, end, LANES):
        share = exp(load(scores + 4 * token) - top)
        sums = sums + share
        if size == 1:
            values = key_address(state, slot, token, layer, kv_head) + state[State.KEY_BYTES]
            share = share * load(values + PAGE * width + 4 * (token % PAGE))
        store(scores + 4 * token, share)
    for token in range(start, first):
        store_float(scores + 4 * token, 0.0)
    all_ = reduce_sum(sums)
    if sink != 0:
        all_ += exp_scalar(load_float(sink) - most)
    weighted_values(state, layer, slot, kv_head, scores, first, position + 1, nb.float32(1.0) / all_, out)


@kernel
def exp_scalar(x: Any) -> Any:
    return reduce_sum(exp(broadcast(x))) / nb.float32(LANES)


@kernel
def weighted_values(
    state: Any, layer: Any, slot: Any, head: Any, shares: Any, first: Any, end: Any, scale: Any, out: Any
) -> None:
    """The values of tokens `first` … `end` − 1, each times its share."""
    size = state[State.ELEMENT_BYTES]
    if size == 1:
        weighted_values_of(load_signed_bytes, 1, state, layer, slot, head, shares, first, end, scale, out)
    elif size == 2:
        weighted_values_of(load_bf16, 2, state, layer, slot, head, shares, first, end, scale, out)
    else:
        weighted_values_of(load, 4, state, layer, slot, head, shares, first, end, scale, out)


@kernel
def weighted_values_of(
    read: Any,
    size: Any,
    state: Any,
    layer: Any,
    slot: Any,
    head: Any,
    shares: Any,
    first: Any,
    end: Any,
    scale: Any,
    out: Any,
) -> None:
    """Sixteen of a head's dimensions at a time; `read` makes floats of sixteen numbers of `size` bytes."""
    width, dim = state[State.HEAD_WIDTH], state[State.HEAD_DIM]
    row = width * size
    for d in range(0, width, LANES):
        a, b, c, e = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
        start = first
        while start < end:
            last = min(end, start // PAGE * PAGE + PAGE)
            page = key_address(state, slot, start, layer, head) + state[State.KEY_BYTES]
            base = page + size * d - start // PAGE * PAGE * row  # so that a token's number finds its row
            four = start + (last - start) // 4 * 4
            for token in range(start, four, 4):
                a = fma(read(base + token * row), broadcast(load_float(shares + 4 * token)), a)
                b = fma(read(base + (token + 1) * row), broadcast(load_float(shares + 4 * token + 4)), b)
                c = fma(read(base + (token + 2) * row), broadcast(load_float(shares + 4 * token + 8)), c)
                e = fma(read(base + (token + 3) * row), broadcast(load_float(shares + 4 * token + 12)), e)
            for token in range(four, last):
                a = fma(read(base + token * row), broadcast(load_float(shares + 4 * token)), a)
            start = last
        result = ((a + b) + (c + e)) * broadcast(scale)
        if d + LANES <= dim:
            store(out + 4 * d, result)
        else:
            # The last piece must not touch the next head: it goes through the shares, which nobody needs any
            # more.
            store(shares + 4 * first, result)
            for lane in range(dim - d):
                store_float(out + 4 * (d + lane), load_float(shares + 4 * (first + lane)))
