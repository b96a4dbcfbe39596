"""Pages of the KV cache: their layout, and storing keys and values in them.

The cache consists of pages (generate/kv/paged_cache.py), each with PAGE tokens of one sequence. A page holds,
for each of some layers and each key/value head, in fp32, bf16 or 8 bits:

    keys    [PAGE/16, D, 16] fp32, [PAGE/16, D/2, 16, 2] bf16, or [PAGE/16, D/4, 16, 4] bytes
            tiles like those of a matrix whose rows are tokens: 16 scores at once
    values  [PAGE, D]       a row for each token, which attention adds up with its weight

D is the head dimension, padded with zeros to full vectors. In 8 bits, the codes of keys are followed by fp32
scales [D/KEY_GROUP, PAGE], and those of values by scales [PAGE]. A scale is 1/127 of the largest number of
its group or token. A number is its scale times its code; the codes of keys have 128 added.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE, LayerPages, State
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load_float, load_long, store_byte, store_float, store_one_bf16
from newleaf.kernels.simd import round_to_int


@kernel
def key_address(state: Any, slot: Any, position: Any, layer: Any, head: Any) -> Any:
    """Address of a head's keys in the page that holds a position; its values follow KEY_BYTES later."""
    columns = state[State.LAYERS] + 8 * LayerPages.SIZE * layer
    table = load_long(columns + 8 * LayerPages.PAGE_TABLE)
    page = load_long(table + 8 * (slot * state[State.PAGE_COUNT] + position // PAGE))
    return page + load_long(columns + 8 * LayerPages.OFFSET) + head * state[State.HEAD_BYTES]


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
            scale = keys + scales + 4 * PAGE * (first // KEY_GROUP)
            inverse = store_scale(key + 4 * first, end - first, scale)
            for d in range(first, end):
                code = round_to_int(load_float(key + 4 * d) * inverse) + 128
                store_byte(keys + tile + (d // 4 * LANES + lane) * 4 + d % 4, code)
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
    """Store the scale of x, fp32 [dim], at the address `scale`; returns its inverse."""
    top = nb.float32(0.0)
    for d in range(dim):
        top = max(top, abs(load_float(x + 4 * d)))
    store_float(scale, top / nb.float32(127.0))
    return nb.float32(127.0) / top if top > 1e-30 else nb.float32(0.0)
