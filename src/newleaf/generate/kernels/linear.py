"""Matrix times vector, sixteen outputs at a time: the step that reads the weights, and so the one whose speed is the memory's.

8- and 4-bit matrices lie in tiles of 16 rows (see quant/packed.py), read from front to back:

              lane 0          lane 1                lane 15
    codes   | r0: c0 … c3   | r1: c0 … c3   | … | r15: c0 … c3   |   64 bytes: one load, one dot4 with inputs c0 … c3 in every lane
            | r0: c4 … c7   | r1: c4 … c7   | … | r15: c4 … c7   |   the next; of 4-bit codes, both of these share 64 bytes
    scales  | r0            | r1            | … | r15            |   fp16, once a group of columns

bf16 and fp32 matrices lie as PyTorch keeps them, row after row. Inputs of the former are bytes with a scale for each group (see `quantize`), of
the latter fp32. Each function takes one tile and several inputs, so that a tile comes from memory once, and sums every input in the same
order, so that a row's result does not depend on its neighbours.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, Format, Matrix
from newleaf.generate.kernels.vectors import (
    kernel, dot4, fma, load, load_bfloat, load_bits, load_float, load_half, load_int, load_one_bfloat, prefetch, spread, spread_int, store,
    store_float, to_floats, total,
)  # fmt: skip

AHEAD = 4096  # bytes: the machine's own prefetching stops at the end of a page


@kernel
def tile_product(matrix: Any, first: Any, expert: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    """Rows `first` … `first` + 15 of a matrix times `rows` inputs that lie `stride` bytes apart; `out` gets 16 floats for each input."""
    codes, columns = matrix[Matrix.CODES] + expert * matrix[Matrix.STRIDE], matrix[Matrix.COLUMNS]
    format = matrix[Matrix.FORMAT]
    if format >= Format.INT8:
        group = matrix[Matrix.GROUP]
        offset = expert * matrix[Matrix.SCALE_STRIDE] + 2 * first * (columns // group)
        scales, minimums = matrix[Matrix.SCALES] + offset, matrix[Matrix.MINIMUMS]
        if minimums != 0:
            minimums += offset
        if format == Format.INT8:
            int8_tile(codes + first * columns, scales, minimums, group, columns, x, stride, rows, out)
        else:
            int4_tile(codes + first * columns // 2, scales, minimums, group, columns, x, stride, rows, out)
    else:
        count = min(LANES, matrix[Matrix.ROWS] - first)
        if format == Format.BF16:
            bf16_rows(codes + 2 * first * columns, count, columns, x, stride, rows, out)
        else:
            fp32_rows(codes + 4 * first * columns, count, columns, x, stride, rows, out)


@kernel
def int8_tile(codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    groups = columns // group
    for row in range(rows):
        x_bytes, x_scales = x + stride * row, x + stride * row + columns
        x_sums, w, acc = x_scales + 4 * groups, codes, spread(0.0)
        for g in range(groups):
            x_sum = load_int(x_sums + 4 * g)
            dot = spread_int(nb.int32(-128 * x_sum))
            for _ in range(group // 32):
                prefetch(w + AHEAD)
                prefetch(w + AHEAD + 64)
                prefetch(w + AHEAD + 128)
                prefetch(w + AHEAD + 192)
                prefetch(w + AHEAD + 256)
                prefetch(w + AHEAD + 320)
                prefetch(w + AHEAD + 384)
                prefetch(w + AHEAD + 448)
                for quad in range(8):
                    dot = dot4(dot, load_bits(w + 64 * quad), spread_int(load_int(x_bytes + 4 * quad)))
                w, x_bytes = w + 512, x_bytes + 32
            x_scale = spread(load_float(x_scales + 4 * g))
            acc = fma(load_half(scales + 32 * g) * x_scale, to_floats(dot), acc)
            if minimums != 0:
                acc = fma(load_half(minimums + 32 * g) * x_scale, spread(nb.float32(x_sum)), acc)
        store(out + 64 * row, acc)


@kernel
def int4_tile(codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    groups = columns // group
    low, four = spread_int(0x0F0F0F0F), spread_int(4)
    for row in range(rows):
        x_bytes, x_scales = x + stride * row, x + stride * row + columns
        x_sums, w, acc = x_scales + 4 * groups, codes, spread(0.0)
        for g in range(groups):
            x_sum = load_int(x_sums + 4 * g)
            dot = spread_int(nb.int32(0 if minimums != 0 else -8 * x_sum))
            for _ in range(group // 32):
                prefetch(w + AHEAD)
                prefetch(w + AHEAD + 64)
                prefetch(w + AHEAD + 128)
                prefetch(w + AHEAD + 192)
                for pair in range(4):
                    both = load_bits(w + 64 * pair)
                    dot = dot4(dot, both & low, spread_int(load_int(x_bytes + 8 * pair)))
                    dot = dot4(dot, (both >> four) & low, spread_int(load_int(x_bytes + 8 * pair + 4)))
                w, x_bytes = w + 256, x_bytes + 32
            x_scale = spread(load_float(x_scales + 4 * g))
            acc = fma(load_half(scales + 32 * g) * x_scale, to_floats(dot), acc)
            if minimums != 0:
                acc = fma(load_half(minimums + 32 * g) * x_scale, spread(nb.float32(x_sum)), acc)
        store(out + 64 * row, acc)


@kernel
def bf16_rows(weights: Any, count: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    """`count` rows; four sums run side by side, since one alone would wait for each addition to end."""
    even = columns // 64 * 64
    for row in range(rows):
        y = x + stride * row
        store(out + 64 * row, spread(0.0))
        for lane in range(count):
            w = weights + 2 * lane * columns
            a, b, c, d = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
            for k in range(0, even, 64):
                prefetch(w + 2 * k + AHEAD)
                prefetch(w + 2 * k + AHEAD + 64)
                a = fma(load_bfloat(w + 2 * k), load(y + 4 * k), a)
                b = fma(load_bfloat(w + 2 * k + 32), load(y + 4 * k + 64), b)
                c = fma(load_bfloat(w + 2 * k + 64), load(y + 4 * k + 128), c)
                d = fma(load_bfloat(w + 2 * k + 96), load(y + 4 * k + 192), d)
            result = total((a + b) + (c + d))
            for k in range(even, columns):
                result += load_one_bfloat(w + 2 * k) * load_float(y + 4 * k)
            store_float(out + 64 * row + 4 * lane, result)


@kernel
def fp32_rows(weights: Any, count: Any, columns: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    even = columns // 64 * 64
    for row in range(rows):
        y = x + stride * row
        store(out + 64 * row, spread(0.0))
        for lane in range(count):
            w = weights + 4 * lane * columns
            a, b, c, d = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
            for k in range(0, even, 64):
                a = fma(load(w + 4 * k), load(y + 4 * k), a)
                b = fma(load(w + 4 * k + 64), load(y + 4 * k + 64), b)
                c = fma(load(w + 4 * k + 128), load(y + 4 * k + 128), c)
                d = fma(load(w + 4 * k + 192), load(y + 4 * k + 192), d)
            result = total((a + b) + (c + d))
            for k in range(even, columns):
                result += load_float(w + 4 * k) * load_float(y + 4 * k)
            store_float(out + 64 * row + 4 * lane, result)
