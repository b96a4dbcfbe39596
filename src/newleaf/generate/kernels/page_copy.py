"""Copies of keys and values between pages and tensors, one layer of one sequence at a time."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.kv_pages import key_address, store_key_value
from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE, State
from newleaf.kernels.compile_cache import cached_kernel
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import (
    load_bf16,
    load_byte,
    load_float,
    load_int,
    load_one_bf16,
    load_signed_bytes,
    store_bf16,
    store_float,
    store_int,
    store_one_bf16,
)
from newleaf.kernels.simd import broadcast


@cached_kernel
def write_pages(state: Any, layer: Any, slot: Any, start: Any, count: Any, keys: Any, values: Any) -> None:
    """Store keys and values, fp32 [K, count, D], at positions from `start` on."""
    dim = state[State.HEAD_DIM]
    for head in range(state[State.KV_HEADS]):
        for token in range(count):
            at = 4 * dim * (head * count + token)
            store_key_value(state, layer, slot, head, start + token, keys + at, values + at)


@cached_kernel
def read_pages(
    state: Any, layer: Any, slot: Any, first: Any, end: Any, keys: Any, values: Any, bf16: Any
) -> None:
    """Keys and values [K, end − first, D] of positions `first` … `end` − 1, in bf16 or fp32."""
    dim, width, size = state[State.HEAD_DIM], state[State.HEAD_WIDTH], state[State.ELEMENT_BYTES]
    for head in range(state[State.KV_HEADS]):
        for position in range(first, end):
            key = key_address(state, slot, position, layer, head)
            value = key + state[State.KEY_BYTES]
            place = position % PAGE
            tile, lane = key + size * (place // LANES * LANES * width), position % LANES
            row, at = value + size * place * width, dim * (head * (end - first) + position - first)
            full = dim if bf16 and dim % LANES == 0 else 0  # numbers that are copied sixteen at a time
            if size == 1:
                scales = key + PAGE * width + 4 * place
                value_scale = load_float(value + PAGE * width + 4 * place)
                for d in range(dim):
                    code = load_byte(tile + (d // 4 * LANES + lane) * 4 + d % 4)
                    scale = load_float(scales + 4 * PAGE * (d // KEY_GROUP))
                    store_element(keys, at + d, nb.float32(code - 128) * scale, bf16)
                for d in range(0, full, LANES):
                    store_bf16(values + 2 * (at + d), load_signed_bytes(row + d) * broadcast(value_scale))
                for d in range(full, dim):
                    code = ((load_byte(row + d) + 128) & 255) - 128  # signed
                    store_element(values, at + d, nb.float32(code) * value_scale, bf16)
            elif size == 2:
                for d in range(0, full, 2):
                    store_int(keys + 2 * (at + d), load_int(tile + 4 * (d // 2 * LANES + lane)))
                for d in range(0, full, LANES):
                    store_bf16(values + 2 * (at + d), load_bf16(row + 2 * d))
                for d in range(full, dim):
                    number = load_one_bf16(tile + 2 * ((d // 2 * LANES + lane) * 2 + d % 2))
                    store_element(keys, at + d, number, bf16)
                    store_element(values, at + d, load_one_bf16(row + 2 * d), bf16)
            else:
                for d in range(dim):
                    store_element(keys, at + d, load_float(tile + 4 * (d * LANES + lane)), bf16)
                    store_element(values, at + d, load_float(row + 4 * d), bf16)


@kernel
def store_element(out: Any, index: Any, value: Any, bf16: Any) -> None:
    if bf16:
        store_one_bf16(out + 2 * index, value)
    else:
        store_float(out + 4 * index, value)
