"""The steps around attention: QK norm, RoPE and storing keys and values, then paged attention."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.kv_pages import store_key_value
from newleaf.generate.kernels.layout import Attention, Rope, State
from newleaf.generate.kernels.paged_attention import attend_head
from newleaf.generate.kernels.state_access import position_of, row_address, scratch_of, slot_of
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load_float, store_float
from newleaf.kernels.simd import float_from_bits


@kernel
def rope_and_store_kv(step: Any, buffers: Any, state: Any, thread: Any) -> None:
    """Norm and rotate queries and keys, and store keys and values in the cache; threads share the heads."""
    threads, heads, kv_heads = state[State.THREADS], state[State.HEADS], state[State.KV_HEADS]
    dim, width, layer = state[State.HEAD_DIM], state[State.HEAD_WIDTH], step[Rope.LAYER]
    epsilon, scale = float_from_bits(step[Rope.EPSILON]), float_from_bits(step[Rope.SCALE])
    dims, interleaved = step[Rope.DIMS], step[Rope.INTERLEAVED]
    query_norm, key_norm = step[Rope.QUERY_NORM], step[Rope.KEY_NORM]
    scratch = scratch_of(state, thread)
    tasks = state[State.ROWS] * (heads + kv_heads)
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        row, head = task // (heads + kv_heads), task % (heads + kv_heads)
        position, slot = position_of(state, row), slot_of(state, row)
        cos, sin = step[Rope.COSINES], step[Rope.SINES]
        if cos != 0:
            cos, sin = cos + 2 * dims * position, sin + 2 * dims * position
        qkv = row_address(buffers, step[Rope.QUERIES], row, 0)
        if head < heads:
            query = qkv + 4 * dim * head
            out = row_address(buffers, step[Rope.OUT], row, 0) + 4 * width * head
            norm_and_rope(query, out, dim, query_norm, epsilon, cos, sin, dims, interleaved, scale)
        else:
            kv_head = head - heads
            key = qkv + step[Rope.KEYS] + 4 * dim * kv_head
            one = nb.float32(1.0)
            norm_and_rope(key, scratch, dim, key_norm, epsilon, cos, sin, dims, interleaved, one)
            value = qkv + step[Rope.VALUES] + 4 * dim * kv_head
            store_key_value(state, layer, slot, kv_head, position, scratch, value)


@kernel
def norm_and_rope(
    x: Any, out: Any, dim: Any, weight: Any, epsilon: Any, cosines: Any, sines: Any, dims: Any,
    interleaved: Any, scale: Any,
) -> None:  # fmt: skip
    """One head: RMS norm unless `weight` is 0, RoPE of `dims` unless `cosines` is 0, times `scale`."""
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
def attention(step: Any, buffers: Any, state: Any, thread: Any) -> None:
    """Attention of every row and head over its slot's cache; threads share the heads."""
    threads, heads = state[State.THREADS], state[State.HEADS]
    dim, width = state[State.HEAD_DIM], state[State.HEAD_WIDTH]
    layer, window = step[Attention.LAYER], step[Attention.WINDOW]
    scores = state[State.SCORES] + thread * state[State.SCORES_STRIDE]
    scratch = scratch_of(state, thread)
    tasks = state[State.ROWS] * heads
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        row, head = task // heads, task % heads
        position, slot = position_of(state, row), slot_of(state, row)
        sink = step[Attention.SINKS] + 4 * head if step[Attention.SINKS] != 0 else 0
        query = row_address(buffers, step[Attention.QUERIES], row, 0) + 4 * width * head
        out = row_address(buffers, step[Attention.OUT], row, 0) + 4 * dim * head
        attend_head(state, layer, slot, head, position, window, sink, query, scores, scratch, out)
