"""Matrix times vector, sixteen outputs at a time: the step that reads the weights, and so the one whose speed
is the memory's.

8- and 4-bit matrices lie in tiles of 16 rows (see quant/packed.py), read from front to back:

              lane 0          lane 1                lane 15
    codes   | r0: c0 … c3   | r1: c0 … c3   | … | r15: c0 … c3   |   64 bytes: one load, one dot4 with inputs
c0 … c3 in every lane
            | r0: c4 … c7   | r1: c4 … c7   | … | r15: c4 … c7   |   the next; of 4-bit codes, both of these
share 64 bytes
    scales  | r0            | r1            | … | r15            |   fp16, once a group of columns

bf16 and fp32 matrices lie as PyTorch keeps them, row after row. Inputs of the former are bytes with a scale
for each group (`quantize`), of the latter fp32. Each function takes one tile and several inputs, so that a
tile comes from memory once, and sums every input in the same order, so that a row's result does not depend on
its neighbours.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, Format, Matrix
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import (
    load,
    load_bf16,
    load_bits,
    load_float,
    load_fp16,
    load_int,
    load_one_bf16,
    prefetch,
    store,
    store_float,
)
from newleaf.kernels.simd import (
    broadcast,
    broadcast_int,
    dot_int8,
    fma,
    select_first_lanes,
    store_reduced_sums,
    table_lookup,
    to_floats,
)

BATCH = 4  # inputs that share one reading of a tile from the cache, and whose sums do not wait for each other
PREFETCH_DISTANCE = 4096  # bytes: the machine's own prefetching stops at the end of a page


@kernel
def tile_matmul(matrix: Any, first: Any, expert: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    """Rows `first` … `first` + 15 of a matrix times `rows` inputs that lie `stride` bytes apart; `out` gets
    16 floats for each input."""
    codes, columns = matrix[Matrix.CODES] + expert * matrix[Matrix.STRIDE], matrix[Matrix.COLUMNS]
    format = matrix[Matrix.FORMAT]
    if format >= Format.INT8:
        group = matrix[Matrix.GROUP]
        offset = expert * matrix[Matrix.SCALE_STRIDE] + 2 * first * (columns // group)
        scales, minimums = matrix[Matrix.SCALES] + offset, matrix[Matrix.MINIMUMS]
        if minimums != 0:
            minimums += offset
        if format == Format.INT8:
            codes += first * columns
            for row in range(0, rows - rows % BATCH, BATCH):
                dot_quantized_weights_x4(
                    codes,
                    scales,
                    minimums,
                    group,
                    columns,
                    matrix,
                    row,
                    rows,
                    x + stride * row,
                    stride,
                    out + 64 * row,
                )
            for row in range(rows - rows % BATCH, rows):
                dot_int8_weights(codes, scales, minimums, group, columns, x + stride * row, out + 64 * row)
        else:
            codes += first * columns // 2
            for row in range(0, rows - rows % BATCH, BATCH):
                dot_quantized_weights_x4(
                    codes,
                    scales,
                    minimums,
                    group,
                    columns,
                    matrix,
                    row,
                    rows,
                    x + stride * row,
                    stride,
                    out + 64 * row,
                )
            for row in range(rows - rows % BATCH, rows):
                dot_int4_weights(
                    codes, scales, minimums, group, columns, matrix, x + stride * row, out + 64 * row
                )
    else:
        count = min(LANES, matrix[Matrix.ROWS] - first)
        if format == Format.BF16:
            dot_float_weights(load_bf16, 2, codes + 2 * first * columns, count, columns, x, stride, rows, out)
        else:
            dot_float_weights(load, 4, codes + 4 * first * columns, count, columns, x, stride, rows, out)


@kernel
def prefetch_ahead(address: Any) -> None:
    """Ask for the 256 bytes that will be read 4 KiB from here."""
    prefetch(address + PREFETCH_DISTANCE)
    prefetch(address + PREFETCH_DISTANCE + 64)
    prefetch(address + PREFETCH_DISTANCE + 128)
    prefetch(address + PREFETCH_DISTANCE + 192)


@kernel
def code_values(matrix: Any) -> Any:
    """What 4-bit codes stand for, where they are looked up."""
    return load_bits(matrix[Matrix.TABLE]) if matrix[Matrix.FORMAT] == Format.TABLE4 else broadcast_int(0)


@kernel
def dot_int8_weights(
    codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, x: Any, out: Any
) -> None:
    """Σ_g scale_g · x_scale_g · (Σ code · x − 128 · Σ x): the inner sums are whole numbers, and x's is known
    beforehand."""
    groups, acc = columns // group, broadcast(0.0)
    x_scales, x_sums = x + columns, x + columns + 4 * groups
    for g in range(groups):
        x_sum = load_int(x_sums + 4 * g)
        dot = broadcast_int(nb.int32(0 if minimums != 0 else -128 * x_sum))
        for _ in range(group // 32):
            prefetch_ahead(codes)
            prefetch_ahead(codes + 256)
            for quad in range(8):
                dot = dot_int8(dot, load_bits(codes + 64 * quad), broadcast_int(load_int(x + 4 * quad)))
            codes, x = codes + 512, x + 32
        acc = accumulate_group(acc, dot, g, scales, minimums, x_scales, x_sum)
    store(out, acc)


@kernel
def dot_int4_weights(
    codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, matrix: Any, x: Any, out: Any
) -> None:
    zero, looked, table = -matrix[Matrix.ZERO], matrix[Matrix.FORMAT] == Format.TABLE4, code_values(matrix)
    groups, acc = columns // group, broadcast(0.0)
    x_scales, x_sums = x + columns, x + columns + 4 * groups
    low, four = broadcast_int(0x0F0F0F0F), broadcast_int(4)
    for g in range(groups):
        x_sum = load_int(x_sums + 4 * g)
        dot = broadcast_int(nb.int32(zero * x_sum))
        for _ in range(group // 32):
            prefetch_ahead(codes)
            for pair in range(4):
                both = load_bits(codes + 64 * pair)
                left, right = both & low, (both >> four) & low
                if looked:
                    left, right = table_lookup(table, left), table_lookup(table, right)
                dot = dot_int8(dot, left, broadcast_int(load_int(x + 8 * pair)))
                dot = dot_int8(dot, right, broadcast_int(load_int(x + 8 * pair + 4)))
            codes, x = codes + 256, x + 32
        acc = accumulate_group(acc, dot, g, scales, minimums, x_scales, x_sum)
    store(out, acc)


@kernel
def accumulate_group(
    acc: Any, dot: Any, g: Any, scales: Any, minimums: Any, x_scales: Any, x_sum: Any
) -> Any:
    """A group's whole-number sums, scaled and added."""
    x_scale = broadcast(load_float(x_scales + 4 * g))
    acc = fma(load_fp16(scales + 32 * g) * x_scale, to_floats(dot), acc)
    if minimums != 0:
        acc = fma(load_fp16(minimums + 32 * g) * x_scale, broadcast(nb.float32(x_sum)), acc)
    return acc


@kernel
def dot_quantized_weights_x4(
    codes: Any,
    scales: Any,
    minimums: Any,
    group: Any,
    columns: Any,
    matrix: Any,
    row: Any,
    rows: Any,
    x: Any,
    stride: Any,
    out: Any,
) -> None:
    """Four inputs, from number `row` of `rows` on. Every input's sums are made in the order of those for one.

    Each reading of a tile asks for its part of the next one, so that memory works while this one is read
    again from the cache.
    """
    readings, lines = rows // BATCH, LANES * columns // (64 if matrix[Matrix.FORMAT] == Format.INT8 else 128)
    ahead = (
        codes + PREFETCH_DISTANCE
        if readings == 1
        else codes + 64 * lines + 64 * lines // readings * (row // BATCH)
    )
    step = 64 // readings
    groups = columns // group
    low, four = broadcast_int(0x0F0F0F0F), broadcast_int(4)
    halves, looked = matrix[Matrix.FORMAT] != Format.INT8, matrix[Matrix.FORMAT] == Format.TABLE4
    zero, table = -matrix[Matrix.ZERO], code_values(matrix)
    x0, x1, x2, x3 = x, x + stride, x + 2 * stride, x + 3 * stride
    s0, s1, s2, s3 = x0 + columns, x1 + columns, x2 + columns, x3 + columns
    sums = 4 * groups
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    for g in range(groups):
        n0, n1, n2, n3 = (
            load_int(s0 + sums + 4 * g),
            load_int(s1 + sums + 4 * g),
            load_int(s2 + sums + 4 * g),
            load_int(s3 + sums + 4 * g),
        )
        d0, d1 = broadcast_int(nb.int32(zero * n0)), broadcast_int(nb.int32(zero * n1))
        d2, d3 = broadcast_int(nb.int32(zero * n2)), broadcast_int(nb.int32(zero * n3))
        # eight sums side by side, whose additions overlap
        e0, e1, e2, e3 = broadcast_int(0), broadcast_int(0), broadcast_int(0), broadcast_int(0)
        for k in range(0, group, 8):
            if halves:
                both = load_bits(codes)
                prefetch(ahead)
                ahead += step
                left, right = both & low, (both >> four) & low
                if looked:
                    left, right = table_lookup(table, left), table_lookup(table, right)
                codes += 64
            else:
                left, right = load_bits(codes), load_bits(codes + 64)
                prefetch(ahead)
                prefetch(ahead + step)
                ahead += 2 * step
                codes += 128
            d0, e0 = (
                dot_int8(d0, left, broadcast_int(load_int(x0 + k))),
                dot_int8(e0, right, broadcast_int(load_int(x0 + k + 4))),
            )
            d1, e1 = (
                dot_int8(d1, left, broadcast_int(load_int(x1 + k))),
                dot_int8(e1, right, broadcast_int(load_int(x1 + k + 4))),
            )
            d2, e2 = (
                dot_int8(d2, left, broadcast_int(load_int(x2 + k))),
                dot_int8(e2, right, broadcast_int(load_int(x2 + k + 4))),
            )
            d3, e3 = (
                dot_int8(d3, left, broadcast_int(load_int(x3 + k))),
                dot_int8(e3, right, broadcast_int(load_int(x3 + k + 4))),
            )
        x0, x1, x2, x3 = x0 + group, x1 + group, x2 + group, x3 + group
        a0 = accumulate_group(a0, d0 + e0, g, scales, minimums, s0, n0)
        a1 = accumulate_group(a1, d1 + e1, g, scales, minimums, s1, n1)
        a2 = accumulate_group(a2, d2 + e2, g, scales, minimums, s2, n2)
        a3 = accumulate_group(a3, d3 + e3, g, scales, minimums, s3, n3)
    store(out, a0)
    store(out + 64, a1)
    store(out + 128, a2)
    store(out + 192, a3)


@kernel
def dot_float_weights(
    read: Any, size: Any, weights: Any, count: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any
) -> None:
    """`count` rows of numbers of `size` bytes, four at a time; `read` makes floats of sixteen numbers."""
    row_bytes = size * columns
    for lane in range(0, count, BATCH):
        # Where fewer than four are left, the last one is taken again.
        w, last = weights + row_bytes * lane, weights + row_bytes * (count - 1)
        w1, w2, w3 = min(w + row_bytes, last), min(w + 2 * row_bytes, last), min(w + 3 * row_bytes, last)
        for row in range(0, rows - rows % BATCH, BATCH):
            dot_4_rows_x4(
                read,
                size,
                w,
                w1,
                w2,
                w3,
                columns,
                row,
                rows,
                x + stride * row,
                stride,
                out + 64 * row + 4 * lane,
            )
        for row in range(rows - rows % BATCH, rows):
            dot_4_rows(read, size, w, w1, w2, w3, columns, x + stride * row, out + 64 * row + 4 * lane)
    for row in range(rows):
        store(out + 64 * row, select_first_lanes(load(out + 64 * row), nb.int32(count), broadcast(0.0)))


@kernel
def dot_4_rows(
    read: Any, size: Any, w: Any, w1: Any, w2: Any, w3: Any, columns: Any, y: Any, out: Any
) -> None:
    """Four rows with one input, while the next four are asked for."""
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
    read: Any,
    size: Any,
    w: Any,
    w1: Any,
    w2: Any,
    w3: Any,
    columns: Any,
    row: Any,
    rows: Any,
    y: Any,
    stride: Any,
    out: Any,
) -> None:
    """Four rows with four inputs, from number `row` of `rows` on; each product is summed in the order of
    `dot_4_rows`.

    Each reading of the rows asks for its part of the next four, so that memory works while these are read
    again from the cache.
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
    """The columns after the last whole 32."""
    for k in range(even, columns):
        x, at = load_float(y + 4 * k), size * k
        store_float(out, load_float(out) + load_one(w + at, size) * x)
        store_float(out + 4, load_float(out + 4) + load_one(w1 + at, size) * x)
        store_float(out + 8, load_float(out + 8) + load_one(w2 + at, size) * x)
        store_float(out + 12, load_float(out + 12) + load_one(w3 + at, size) * x)


@kernel
def load_one(address: Any, size: Any) -> Any:
    return load_one_bf16(address) if size == 2 else load_float(address)
