"""Dot products of bf16 or fp32 weights with fp32 inputs, four rows at a time."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES
from newleaf.generate.kernels.weight_prefetch import BATCH, prefetch_ahead
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load, load_float, load_one_bf16, prefetch, store, store_float
from newleaf.kernels.simd import broadcast, fma, select_first_lanes, store_reduced_sums


@kernel
def dot_float_weights(
    read: Any, size: Any, weights: Any, count: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any
) -> None:
    """`count` rows of numbers of `size` bytes, four at a time; `read` makes floats of sixteen numbers."""
    row_bytes = size * columns
    for lane in range(0, count, BATCH):
        # Where fewer than four rows are left, the last one is read again.
        w, last = weights + row_bytes * lane, weights + row_bytes * (count - 1)
        w1, w2, w3 = min(w + row_bytes, last), min(w + 2 * row_bytes, last), min(w + 3 * row_bytes, last)
        for row in range(0, rows - rows % BATCH, BATCH):
            y, sums = x + stride * row, out + 64 * row + 4 * lane
            dot_4_rows_x4(read, size, w, w1, w2, w3, columns, row, rows, y, stride, sums)
        for row in range(rows - rows % BATCH, rows):
            dot_4_rows(read, size, w, w1, w2, w3, columns, x + stride * row, out + 64 * row + 4 * lane)
    for row in range(rows):
        store(out + 64 * row, select_first_lanes(load(out + 64 * row), nb.int32(count), broadcast(0.0)))


@kernel
def dot_4_rows(
    read: Any, size: Any, w: Any, w1: Any, w2: Any, w3: Any, columns: Any, y: Any, out: Any
) -> None:
    """Four rows with one input, while the next four are prefetched."""
    even, ahead = columns // 32 * 32, w + BATCH * size * columns
    a0, b0, c0, d0 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    for k in range(0, even, 32):
        for _ in range(size // 2):
            prefetch_ahead(ahead)
            ahead += 256
        x = load(y + 4 * k)
        a0, b0 = fma(read(w + size * k), x, a0), fma(read(w1 + size * k), x, b0)
        c0, d0 = fma(read(w2 + size * k), x, c0), fma(read(w3 + size * k), x, d0)
        x, m = load(y + 4 * k + 64), size * (k + LANES)
        a0, b0 = fma(read(w + m), x, a0), fma(read(w1 + m), x, b0)
        c0, d0 = fma(read(w2 + m), x, c0), fma(read(w3 + m), x, d0)
    store_reduced_sums(out, a0, b0, c0, d0)
    add_remaining_columns(size, w, w1, w2, w3, even, columns, y, out)


@kernel
def dot_4_rows_x4(
    read: Any, size: Any, w: Any, w1: Any, w2: Any, w3: Any, columns: Any, row: Any, rows: Any, y: Any,
    stride: Any, out: Any,
) -> None:  # fmt: skip
    """Four rows with four inputs, from number `row` of `rows` on.

    Each product is summed in the order of `dot_4_rows`. Each reading of the rows prefetches a share of the
    next four, so that memory is busy while these are read again from the cache.
    """
    readings, next_rows = rows // BATCH, BATCH * size * columns
    ahead, step = w + next_rows + next_rows // readings * (row // BATCH), BATCH * size * LANES // readings
    even, y1, y2, y3 = columns // 32 * 32, y + stride, y + 2 * stride, y + 3 * stride
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    b0, b1, b2, b3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    c0, c1, c2, c3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    d0, d1, d2, d3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    for k in range(0, even, LANES):
        prefetch(ahead)
        prefetch(ahead + step // 2)
        ahead += step
        x, x1, x2, x3 = load(y + 4 * k), load(y1 + 4 * k), load(y2 + 4 * k), load(y3 + 4 * k)
        u = read(w + size * k)
        a0, a1, a2, a3 = fma(u, x, a0), fma(u, x1, a1), fma(u, x2, a2), fma(u, x3, a3)
        u = read(w1 + size * k)
        b0, b1, b2, b3 = fma(u, x, b0), fma(u, x1, b1), fma(u, x2, b2), fma(u, x3, b3)
        u = read(w2 + size * k)
        c0, c1, c2, c3 = fma(u, x, c0), fma(u, x1, c1), fma(u, x2, c2), fma(u, x3, c3)
        u = read(w3 + size * k)
        d0, d1, d2, d3 = fma(u, x, d0), fma(u, x1, d1), fma(u, x2, d2), fma(u, x3, d3)
    store_reduced_sums(out, a0, b0, c0, d0)
    store_reduced_sums(out + 64, a1, b1, c1, d1)
    store_reduced_sums(out + 128, a2, b2, c2, d2)
    store_reduced_sums(out + 192, a3, b3, c3, d3)
    for number in range(BATCH):
        add_remaining_columns(size, w, w1, w2, w3, even, columns, y + stride * number, out + 64 * number)


@kernel
def add_remaining_columns(
    size: Any, w: Any, w1: Any, w2: Any, w3: Any, even: Any, columns: Any, y: Any, out: Any
) -> None:
    """The columns after the last full 32."""
    for k in range(even, columns):
        x, at = load_float(y + 4 * k), size * k
        store_float(out, load_float(out) + load_one(w + at, size) * x)
        store_float(out + 4, load_float(out + 4) + load_one(w1 + at, size) * x)
        store_float(out + 8, load_float(out + 8) + load_one(w2 + at, size) * x)
        store_float(out + 12, load_float(out + 12) + load_one(w3 + at, size) * x)


@kernel
def load_one(address: Any, size: Any) -> Any:
    return load_one_bf16(address) if size == 2 else load_float(address)
