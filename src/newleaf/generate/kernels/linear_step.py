"""The linear step: matrices that read one input, with bias, adapter, activation, gate and residual."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.elementwise import activate
from newleaf.generate.kernels.layout import LANES, Activation, Buffer, ExpertChoice, Linear, Matrix, State
from newleaf.generate.kernels.state_access import row_address, scratch_of
from newleaf.generate.kernels.tile_matmul import tile_matmul
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load, load_long, store
from newleaf.kernels.simd import broadcast, float_from_bits, maximum, minimum


@kernel
def linear(step: Any, matrices: Any, buffers: Any, state: Any, thread: Any, all_rows: Any) -> None:
    """The products of all matrices, tile by tile; threads share the tiles."""
    first, count = step[Linear.MATRIX], step[Linear.COUNT]
    total = 0
    for number in range(first, first + count):
        total += (matrices[number, Matrix.ROWS] + LANES - 1) // LANES
    start, end = total * thread // state[State.THREADS], total * (thread + 1) // state[State.THREADS]
    base = 0
    for number in range(first, first + count):
        tiles = (matrices[number, Matrix.ROWS] + LANES - 1) // LANES
        # Rows have experts of their own, so they go one at a time.
        rows = 1 if step[Linear.EXPERT] else all_rows
        for tile in range(max(start, base), min(end, base + tiles)):
            for row in range(0, all_rows, max(rows, 1)):
                linear_tile(step, matrices, number, tile - base, tile, buffers, state, thread, row, rows)
        base += tiles


@kernel
def linear_tile(
    step: Any, matrices: Any, number: Any, tile: Any, out_tile: Any, buffers: Any, state: Any, thread: Any,
    first: Any, rows: Any,
) -> None:  # fmt: skip
    """One tile for `rows` inputs from `first` on, from the products to the output."""
    owner = 0 if state[State.ROWS] > 1 else thread
    products, half = scratch_of(state, thread), 64 * state[State.MAX_ROWS]
    x = row_address(buffers, step[Linear.INPUT], first, owner)
    stride = buffers[step[Linear.INPUT], Buffer.STRIDE]
    expert, weight = 0, nb.float32(1.0)
    if step[Linear.EXPERT]:
        choices = row_address(buffers, step[Linear.ROUTES], first, owner)
        choice = choices + ExpertChoice.SIZE * (step[Linear.EXPERT] - 1)
        expert = load_long(choice)
        if step[Linear.WEIGH_BY_ROUTER]:
            weight = float_from_bits(load_long(choice + ExpertChoice.WEIGHT))
    for part in range(1 + step[Linear.GATED]):
        tile_matmul(matrices[number + part], tile * LANES, expert, x, stride, rows, products + part * half)
    kind, alpha = step[Linear.ACTIVATION], float_from_bits(step[Linear.ALPHA])
    limit = broadcast(float_from_bits(step[Linear.LIMIT]))
    has_dora = step[Linear.EXPERT] == 0 and matrices[number, Matrix.DORA_SCALE] != 0
    routes = step[Linear.ROUTES] if has_dora else -1
    updates = step[Linear.ADAPTER_UPDATE]
    next_tile = out_tile + (matrices[number, Matrix.ROWS] + LANES - 1) // LANES
    for row in range(rows):
        adapter = load_long(row_address(buffers, routes, first + row, 0)) if routes >= 0 else 0
        update = load_update(buffers, updates, first + row, out_tile)
        product = load(products + 64 * row)
        value = add_update_and_bias(matrices[number], tile, expert, adapter, product, update)
        if kind == Activation.CLAMPED_SWIGLU:
            value = minimum(value, limit)
        value = activate(kind, value, alpha)
        if step[Linear.GATED]:
            update = load_update(buffers, updates, first + row, next_tile)
            product = load(products + half + 64 * row)
            up = add_update_and_bias(matrices[number + 1], tile, expert, adapter, product, update)
            if kind == Activation.CLAMPED_SWIGLU:
                up = maximum(minimum(up, limit), broadcast(0.0) - limit) + broadcast(1.0)
            value = value * up
        value = value * broadcast(weight)
        if step[Linear.RESIDUAL] >= 0:
            residual = row_address(buffers, step[Linear.RESIDUAL], first + row, owner)
            value = value + load(residual + 64 * out_tile)
        store(row_address(buffers, step[Linear.OUT], first + row, owner) + 64 * out_tile, value)


@kernel
def load_update(buffers: Any, updates: Any, row: Any, tile: Any) -> Any:
    """A tile of the adapter's update for a row; zeros where there is none."""
    return load(row_address(buffers, updates, row, 0) + 64 * tile) if updates >= 0 else broadcast(0.0)


@kernel
def add_update_and_bias(matrix: Any, tile: Any, expert: Any, adapter: Any, product: Any, update: Any) -> Any:
    """A tile's products with the matrix's factor, the adapter's DoRA scale and update, and the bias."""
    value = product * broadcast(float_from_bits(matrix[Matrix.FACTOR]))
    if matrix[Matrix.DORA_SCALE] != 0:
        scales = matrix[Matrix.DORA_SCALE] + adapter * matrix[Matrix.DORA_SCALE_STRIDE]
        value = value * load(scales + 64 * tile)
    value = value + update
    if matrix[Matrix.BIAS] != 0:
        value = value + load(matrix[Matrix.BIAS] + expert * matrix[Matrix.BIAS_STRIDE] + 64 * tile)
    return value
