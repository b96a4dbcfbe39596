"""Dot products of a tile of int8 or 4-bit weights with int8 inputs; tile_matmul.py has the layout."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, Format, Matrix
from newleaf.generate.kernels.weight_prefetch import BATCH, PREFETCH_DISTANCE, prefetch_ahead
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load_bits, load_float, load_fp16, load_int, prefetch, store
from newleaf.kernels.simd import broadcast, broadcast_int, dot_int8, fma, table_lookup, to_floats


@kernel
def code_values(matrix: Any) -> Any:
    """The table of what 4-bit codes stand for, where there is one."""
    return load_bits(matrix[Matrix.TABLE]) if matrix[Matrix.FORMAT] == Format.TABLE4 else broadcast_int(0)


@kernel
def dot_int8_weights(
    codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, x: Any, out: Any
) -> None:
    """Σ_g scale_g · x_scale_g · (Σ code · x − 128 · Σ x): integer sums in each group; Σ x is known."""
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
    """The same for 4-bit codes, with the format's zero in place of 128."""
    zero, has_table, table = -matrix[Matrix.ZERO], matrix[Matrix.FORMAT] == Format.TABLE4, code_values(matrix)
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
                if has_table:
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
    """Add a group's integer sums, scaled."""
    x_scale = broadcast(load_float(x_scales + 4 * g))
    acc = fma(load_fp16(scales + 32 * g) * x_scale, to_floats(dot), acc)
    if minimums != 0:
        acc = fma(load_fp16(minimums + 32 * g) * x_scale, broadcast(nb.float32(x_sum)), acc)
    return acc


@kernel
def dot_quantized_weights_x4(
    codes: Any, scales: Any, minimums: Any, group: Any, columns: Any, matrix: Any, row: Any, rows: Any,
    x: Any, stride: Any, out: Any,
) -> None:  # fmt: skip
    """Four inputs, from number `row` of `rows` on. Each input's sums are added in the order of those for one.

    Each reading of a tile prefetches a share of the next one, so that memory is busy while this one is read
    again from the cache.
    """
    readings, lines = rows // BATCH, LANES * columns // (64 if matrix[Matrix.FORMAT] == Format.INT8 else 128)
    next_tile = codes + 64 * lines
    ahead = (
        codes + PREFETCH_DISTANCE if readings == 1 else next_tile + 64 * lines // readings * (row // BATCH)
    )
    step = 64 // readings
    groups = columns // group
    low, four = broadcast_int(0x0F0F0F0F), broadcast_int(4)
    is_int4, has_table = matrix[Matrix.FORMAT] != Format.INT8, matrix[Matrix.FORMAT] == Format.TABLE4
    zero, table = -matrix[Matrix.ZERO], code_values(matrix)
    x0, x1, x2, x3 = x, x + stride, x + 2 * stride, x + 3 * stride
    s0, s1, s2, s3 = x0 + columns, x1 + columns, x2 + columns, x3 + columns
    sums = 4 * groups
    a0, a1, a2, a3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)
    for g in range(groups):
        n0, n1 = load_int(s0 + sums + 4 * g), load_int(s1 + sums + 4 * g)
        n2, n3 = load_int(s2 + sums + 4 * g), load_int(s3 + sums + 4 * g)
        d0, d1 = broadcast_int(nb.int32(zero * n0)), broadcast_int(nb.int32(zero * n1))
        d2, d3 = broadcast_int(nb.int32(zero * n2)), broadcast_int(nb.int32(zero * n3))
        # eight independent sums, whose additions overlap
        e0, e1, e2, e3 = broadcast_int(0), broadcast_int(0), broadcast_int(0), broadcast_int(0)
        for k in range(0, group, 8):
            if is_int4:
                both = load_bits(codes)
                prefetch(ahead)
                ahead += step
                left, right = both & low, (both >> four) & low
                if has_table:
                    left, right = table_lookup(table, left), table_lookup(table, right)
                codes += 64
            else:
                left, right = load_bits(codes), load_bits(codes + 64)
                prefetch(ahead)
                prefetch(ahead + step)
                ahead += 2 * step
                codes += 128
            d0 = dot_int8(d0, left, broadcast_int(load_int(x0 + k)))
            e0 = dot_int8(e0, right, broadcast_int(load_int(x0 + k + 4)))
            d1 = dot_int8(d1, left, broadcast_int(load_int(x1 + k)))
            e1 = dot_int8(e1, right, broadcast_int(load_int(x1 + k + 4)))
            d2 = dot_int8(d2, left, broadcast_int(load_int(x2 + k)))
            e2 = dot_int8(e2, right, broadcast_int(load_int(x2 + k + 4)))
            d3 = dot_int8(d3, left, broadcast_int(load_int(x3 + k)))
            e3 = dot_int8(e3, right, broadcast_int(load_int(x3 + k + 4)))
        x0, x1, x2, x3 = x0 + group, x1 + group, x2 + group, x3 + group
        a0 = accumulate_group(a0, d0 + e0, g, scales, minimums, s0, n0)
        a1 = accumulate_group(a1, d1 + e1, g, scales, minimums, s1, n1)
        a2 = accumulate_group(a2, d2 + e2, g, scales, minimums, s2, n2)
        a3 = accumulate_group(a3, d3 + e3, g, scales, minimums, s3, n3)
    store(out, a0)
    store(out + 64, a1)
    store(out + 128, a2)
    store(out + 192, a3)
