"""Running a program: every thread walks through the steps, does its share of each, and meets the others where
the next needs them."""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from newleaf.generate.kernels.elementwise import activate, normalize, quantize_int8
from newleaf.generate.kernels.layout import (
    LANES,
    MAX_THREADS,
    Activation,
    Attention,
    Barrier,
    Buffer,
    Embed,
    Format,
    Linear,
    Matrix,
    Norm,
    Op,
    Quantize,
    Rope,
    Route,
    State,
    Step,
)  # fmt: skip
from newleaf.generate.kernels.linear import tile_matmul
from newleaf.generate.kernels.paged_attention import attend_head, norm_and_rope, store_key_value
from newleaf.kernels.atomics import atomic_add, atomic_load, atomic_store, call_function, spin_pause
from newleaf.kernels.compile_cache import cached_kernel
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import (
    load,
    load_byte,
    load_float,
    load_long,
    load_one_bf16,
    load_one_fp16,
    store,
    store_float,
    store_long,
)
from newleaf.kernels.simd import bits_from_float, broadcast, float_from_bits, maximum, minimum

SPINS_BEFORE_YIELD = 64  # about a microsecond


@cached_kernel
def run(steps: Any, matrices: Any, buffers: Any, state: Any, thread: Any, seen: Any, patience: Any) -> Any:
    """Thread 0 runs the program once and returns. The first State.THREADS of all threads run it with thread
    0; the others return the number of the last start that they saw when they are not among them or nothing
    comes for `patience` looks, or −1 when they are to stop. State.ROWS tokens, positions and slots must stand
    in the state.
    """
    generation, looks = state[State.SELF] + 8 * State.GENERATION, 0
    if thread == 0:
        state[State.ARRIVED_BEFORE] = atomic_load(state[State.SELF] + 8 * State.ARRIVED)
        atomic_store(generation, (seen + 1) * MAX_THREADS + state[State.THREADS])
    while looks < patience:
        if atomic_load(state[State.SELF] + 8 * State.STOP):
            return -1
        started = atomic_load(generation)
        if started // MAX_THREADS > seen:
            seen = started // MAX_THREADS
            if thread >= started % MAX_THREADS:
                return seen
            run_program(steps, matrices, buffers, state, thread)
            looks = 0
            if thread == 0:
                return seen
        elif atomic_load(state[State.SELF] + 8 * State.SLEEP):
            return seen
        spin_pause()
        looks += 1
    return seen


@kernel
def run_program(steps: Any, matrices: Any, buffers: Any, state: Any, thread: Any) -> None:
    """One thread's part of all steps."""
    threads, shared = state[State.THREADS], state[State.ROWS] > 1
    arrivals = state[State.ARRIVED_BEFORE]
    for number in range(steps.shape[0]):
        step = steps[number]
        op = step[Step.OP]
        rows = state[State.LOGIT_ROWS] if step[Step.LOGIT_ROWS_ONLY] else state[State.ROWS]
        if op == Op.LINEAR:
            linear(step, matrices, buffers, state, thread, rows)
        elif op == Op.ATTENTION:
            attention(step, buffers, state, thread)
        elif op == Op.ROPE:
            rope_and_store_kv(step, buffers, state, thread)
        elif op == Op.EMBED:
            embed(step, matrices, buffers, state, thread)
        else:
            # Small vectors: everyone computes them for itself while there is one row.
            first, end = (rows * thread // threads, rows * (thread + 1) // threads) if shared else (0, rows)
            for row in range(first, end):
                run_vector_step(step, buffers, row, 0 if shared else thread)
        barrier = step[Step.BARRIER]
        if barrier == Barrier.ALWAYS or (barrier == Barrier.IF_SHARED and shared):
            arrivals += threads
            barrier_wait(state, arrivals)


@kernel
def barrier_wait(state: Any, arrivals: Any) -> None:
    """Arrive, and wait until all have. Waiting is a loop: a meeting takes less time than falling asleep
    would."""
    arrived = state[State.SELF] + 8 * State.ARRIVED
    spins = 0
    if atomic_add(arrived, 1) + 1 < arrivals:
        while atomic_load(arrived) < arrivals:
            spin_pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD and state[State.YIELD]:
                call_function(state[State.YIELD])


@kernel
def row_address(buffers: Any, buffer: Any, row: Any, thread: Any) -> Any:
    """Address of a row of a buffer, in the thread's own copy where there is one."""
    return (
        buffers[buffer, Buffer.ADDRESS]
        + row * buffers[buffer, Buffer.STRIDE]
        + thread * buffers[buffer, Buffer.THREAD_STRIDE]
    )


@kernel
def run_vector_step(step: Any, buffers: Any, row: Any, owner: Any) -> None:
    """A step on one small vector."""
    op = step[Step.OP]
    if op == Op.NORM:
        x, out = (
            row_address(buffers, step[Norm.INPUT], row, owner),
            row_address(buffers, step[Norm.OUT], row, owner),
        )
        normalize(
            x,
            out,
            step[Norm.WEIGHT],
            step[Norm.BIAS],
            step[Norm.WIDTH],
            float_from_bits(step[Norm.EPSILON]),
            step[Norm.SUBTRACT_MEAN],
        )
    elif op == Op.QUANTIZE:
        x, out = (
            row_address(buffers, step[Quantize.INPUT], row, owner),
            row_address(buffers, step[Quantize.OUT], row, owner),
        )
        quantize_int8(x, out, step[Quantize.WIDTH], step[Quantize.GROUP])
    elif op == Op.ROUTE:
        scores, out = (
            row_address(buffers, step[Route.SCORES], row, owner),
            row_address(buffers, step[Route.OUT], row, owner),
        )
        top_k_experts(scores, out, step[Route.EXPERTS], step[Route.ACTIVE])


@kernel
def top_k_experts(scores: Any, out: Any, experts: Any, active: Any) -> None:
    """The `active` likeliest experts and the softmax over their scores: pairs of a number and the bits of a
    share."""
    top = nb.float32(0.0)
    for k in range(active):
        best = -1
        for expert in range(experts):
            taken = False
            for earlier in range(k):
                taken |= load_long(out + 16 * earlier) == expert
            if not taken and (best < 0 or load_float(scores + 4 * expert) > load_float(scores + 4 * best)):
                best = expert
        store_long(out + 16 * k, best)
        if k == 0:
            top = load_float(scores + 4 * best)
    whole = nb.float32(0.0)
    for k in range(active):
        share = nb.float32(np.exp(load_float(scores + 4 * load_long(out + 16 * k)) - top))
        whole += share
        store_long(out + 16 * k + 8, bits_from_float(share))
    for k in range(active):
        store_long(out + 16 * k + 8, bits_from_float(float_from_bits(load_long(out + 16 * k + 8)) / whole))


@kernel
def embed(step: Any, matrices: Any, buffers: Any, state: Any, thread: Any) -> None:
    """Rows of the table of tokens, and of positions where they are learned; threads share the columns."""
    threads, most = state[State.THREADS], state[State.MAX_ROWS]
    matrix, width = matrices[step[Embed.MATRIX]], step[Embed.WIDTH]
    pieces = (width + LANES - 1) // LANES
    first, end = pieces * thread // threads * LANES, min(width, pieces * (thread + 1) // threads * LANES)
    for row in range(state[State.ROWS]):
        token, position = state[State.TOKENS + row], state[State.TOKENS + most + row]
        out = row_address(buffers, step[Embed.OUT], row, 0)
        table = step[Embed.POSITIONS]
        for column in range(first, end):
            value = matrix_element(matrix, token, column)
            if table != 0:
                value += load_float(table + 4 * (position * width + column))
            store_float(out + 4 * column, value)


@kernel
def matrix_element(matrix: Any, row: Any, column: Any) -> Any:
    """One number of a matrix."""
    format, codes, columns = matrix[Matrix.FORMAT], matrix[Matrix.CODES], matrix[Matrix.COLUMNS]
    if format == Format.FP32:
        return load_float(codes + 4 * (row * columns + column))
    if format == Format.BF16:
        return load_one_bf16(codes + 2 * (row * columns + column))
    tile, lane, group = row // LANES, row % LANES, matrix[Matrix.GROUP]
    at = 2 * ((tile * (columns // group) + column // group) * LANES + lane)
    scale = load_one_fp16(matrix[Matrix.SCALES] + at)
    if format == Format.INT8:
        code = load_byte(codes + ((tile * (columns // 4) + column // 4) * LANES + lane) * 4 + column % 4)
    else:
        pair = load_byte(codes + ((tile * (columns // 8) + column // 8) * LANES + lane) * 4 + column % 4)
        code = (pair >> 4 if column % 8 >= 4 else pair) & 15
        if format == Format.TABLE4:
            code = load_byte(matrix[Matrix.TABLE] + code)
    minimum = load_one_fp16(matrix[Matrix.MINIMUMS] + at) if matrix[Matrix.MINIMUMS] != 0 else nb.float32(0.0)
    return float_from_bits(matrix[Matrix.FACTOR]) * (scale * nb.float32(code - matrix[Matrix.ZERO]) + minimum)


@kernel
def linear(step: Any, matrices: Any, buffers: Any, state: Any, thread: Any, all_rows: Any) -> None:
    """Matrices that read one input, tile by tile; threads share the tiles."""
    first, count = step[Linear.MATRIX], step[Linear.COUNT]
    whole = 0
    for number in range(first, first + count):
        whole += (matrices[number, Matrix.ROWS] + LANES - 1) // LANES
    mine, end = whole * thread // state[State.THREADS], whole * (thread + 1) // state[State.THREADS]
    base = 0
    for number in range(first, first + count):
        tiles = (matrices[number, Matrix.ROWS] + LANES - 1) // LANES
        # Rows that chose experts of their own go one at a time.
        rows = 1 if step[Linear.EXPERT] else all_rows
        for tile in range(max(mine, base), min(end, base + tiles)):
            for row in range(0, all_rows, max(rows, 1)):
                linear_tile(step, matrices, number, tile - base, tile, buffers, state, thread, row, rows)
        base += tiles


@kernel
def linear_tile(
    step: Any,
    matrices: Any,
    number: Any,
    tile: Any,
    out_tile: Any,
    buffers: Any,
    state: Any,
    thread: Any,
    first: Any,
    rows: Any,
) -> None:
    """One tile for `rows` inputs from `first` on, with all that is done to its products on the way to the
    output."""
    owner = 0 if state[State.ROWS] > 1 else thread
    products, half = state[State.SCRATCH] + thread * state[State.SCRATCH_STRIDE], 64 * state[State.MAX_ROWS]
    x, stride = (
        row_address(buffers, step[Linear.INPUT], first, owner),
        buffers[step[Linear.INPUT], Buffer.STRIDE],
    )
    expert, share = 0, nb.float32(1.0)
    if step[Linear.EXPERT]:
        chosen = row_address(buffers, step[Linear.ROUTES], first, owner) + 16 * (step[Linear.EXPERT] - 1)
        expert = load_long(chosen)
        if step[Linear.WEIGH_BY_ROUTER]:
            share = float_from_bits(load_long(chosen + 8))
    for part in range(1 + step[Linear.GATED]):
        tile_matmul(matrices[number + part], tile * LANES, expert, x, stride, rows, products + part * half)
    kind, alpha, limit = (
        step[Linear.ACTIVATION],
        float_from_bits(step[Linear.ALPHA]),
        broadcast(float_from_bits(step[Linear.LIMIT])),
    )
    routes = (
        step[Linear.ROUTES] if step[Linear.EXPERT] == 0 and matrices[number, Matrix.DORA_SCALE] != 0 else -1
    )
    added, next_tile = (
        step[Linear.ADAPTER_UPDATE],
        out_tile + (matrices[number, Matrix.ROWS] + LANES - 1) // LANES,
    )
    for row in range(rows):
        adapter = load_long(row_address(buffers, routes, first + row, 0)) if routes >= 0 else 0
        more = (
            load(row_address(buffers, added, first + row, 0) + 64 * out_tile)
            if added >= 0
            else broadcast(0.0)
        )
        value = add_update_and_bias(matrices[number], tile, expert, adapter, load(products + 64 * row), more)
        if kind == Activation.CLAMPED_SWIGLU:
            value = minimum(value, limit)
        value = activate(kind, value, alpha)
        if step[Linear.GATED]:
            more = (
                load(row_address(buffers, added, first + row, 0) + 64 * next_tile)
                if added >= 0
                else broadcast(0.0)
            )
            up = add_update_and_bias(
                matrices[number + 1], tile, expert, adapter, load(products + half + 64 * row), more
            )
            if kind == Activation.CLAMPED_SWIGLU:
                up = maximum(minimum(up, limit), broadcast(0.0) - limit) + broadcast(1.0)
            value = value * up
        value = value * broadcast(share)
        if step[Linear.RESIDUAL] >= 0:
            value = value + load(
                row_address(buffers, step[Linear.RESIDUAL], first + row, owner) + 64 * out_tile
            )
        store(row_address(buffers, step[Linear.OUT], first + row, owner) + 64 * out_tile, value)


@kernel
def add_update_and_bias(matrix: Any, tile: Any, expert: Any, adapter: Any, product: Any, more: Any) -> Any:
    """A tile's products with the matrix's factor, what an adapter makes of them, and the bias."""
    value = product * broadcast(float_from_bits(matrix[Matrix.FACTOR]))
    if matrix[Matrix.DORA_SCALE] != 0:
        value = value * load(
            matrix[Matrix.DORA_SCALE] + adapter * matrix[Matrix.DORA_SCALE_STRIDE] + 64 * tile
        )
    value = value + more
    if matrix[Matrix.BIAS] != 0:
        value = value + load(matrix[Matrix.BIAS] + expert * matrix[Matrix.BIAS_STRIDE] + 64 * tile)
    return value


@kernel
def rope_and_store_kv(step: Any, buffers: Any, state: Any, thread: Any) -> None:
    """Queries and keys are normed and turned, and keys and values go into the cache; threads share the
    heads."""
    threads, most, heads, kv_heads = (
        state[State.THREADS],
        state[State.MAX_ROWS],
        state[State.HEADS],
        state[State.KV_HEADS],
    )
    dim, width, layer = state[State.HEAD_DIM], state[State.HEAD_WIDTH], step[Rope.LAYER]
    epsilon, dims, interleaved = float_from_bits(step[Rope.EPSILON]), step[Rope.DIMS], step[Rope.INTERLEAVED]
    scratch = state[State.SCRATCH] + thread * state[State.SCRATCH_STRIDE]
    tasks = state[State.ROWS] * (heads + kv_heads)
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        row, head = task // (heads + kv_heads), task % (heads + kv_heads)
        position, slot = state[State.TOKENS + most + row], state[State.TOKENS + 2 * most + row]
        cosines, sines = step[Rope.COSINES], step[Rope.SINES]
        if cosines != 0:
            cosines, sines = cosines + 2 * dims * position, sines + 2 * dims * position
        if head < heads:
            x = row_address(buffers, step[Rope.QUERIES], row, 0) + 4 * dim * head
            out = row_address(buffers, step[Rope.OUT], row, 0) + 4 * width * head
            norm_and_rope(
                x,
                out,
                dim,
                step[Rope.QUERY_NORM],
                epsilon,
                cosines,
                sines,
                dims,
                interleaved,
                float_from_bits(step[Rope.SCALE]),
            )
        else:
            kv = head - heads
            x = row_address(buffers, step[Rope.QUERIES], row, 0) + step[Rope.KEYS] + 4 * dim * kv
            norm_and_rope(
                x,
                scratch,
                dim,
                step[Rope.KEY_NORM],
                epsilon,
                cosines,
                sines,
                dims,
                interleaved,
                nb.float32(1.0),
            )
            value = row_address(buffers, step[Rope.QUERIES], row, 0) + step[Rope.VALUES] + 4 * dim * kv
            store_key_value(state, layer, slot, kv, position, scratch, value)


@kernel
def attention(step: Any, buffers: Any, state: Any, thread: Any) -> None:
    """Attention of every row and head over its slot's cache; threads share the heads."""
    threads, most, heads = state[State.THREADS], state[State.MAX_ROWS], state[State.HEADS]
    dim, width = state[State.HEAD_DIM], state[State.HEAD_WIDTH]
    scores = state[State.SCORES] + thread * state[State.SCORES_STRIDE]
    scratch = state[State.SCRATCH] + thread * state[State.SCRATCH_STRIDE]
    tasks = state[State.ROWS] * heads
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        row, head = task // heads, task % heads
        position, slot = state[State.TOKENS + most + row], state[State.TOKENS + 2 * most + row]
        sink = step[Attention.SINKS] + 4 * head if step[Attention.SINKS] != 0 else 0
        query = row_address(buffers, step[Attention.QUERIES], row, 0) + 4 * width * head
        out = row_address(buffers, step[Attention.OUT], row, 0) + 4 * dim * head
        attend_head(
            state,
            step[Attention.LAYER],
            slot,
            head,
            position,
            step[Attention.WINDOW],
            sink,
            query,
            scores,
            scratch,
            out,
        )
