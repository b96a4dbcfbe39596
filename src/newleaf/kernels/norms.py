"""RMS norm, forwards and backwards, in one pass over memory each.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import float_argument, int_argument, load, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import inverse_rms, load_at, store_at
from newleaf.kernels.simd import broadcast, fma, reduce_sum


@parallel
def rms_norm_forward(table: Any, first: Any, last: Any) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight. x, out [rows, width], weight fp32 [width], width, wide, eps
    (its fp32 bits)."""
    x, out, weight, width, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
        int_argument(table, 4),
    )
    epsilon = float_argument(table, 5)
    for row in range(first, last):
        at = row * width
        scale = broadcast(inverse_rms(x, at, width, is_fp32, epsilon))
        for k in range(0, width, LANES):
            store_at(out, at + k, is_fp32, load_at(x, at + k, is_fp32) * scale * load(weight + 4 * k))


@parallel
def rms_norm_backward(table: Any, first: Any, last: Any) -> None:
    """x, grad, out [rows, width], weight fp32 [width], weight_grads fp32 [chunks, width] of zeros, chunk,
    width, wide, eps.

    The norm removes x's own direction: only what is orthogonal to it flows back.
    """
    x, grad, out, weight, sums = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
        int_argument(table, 4),
    )
    chunk, width, is_fp32, epsilon = (
        int_argument(table, 5),
        int_argument(table, 6),
        int_argument(table, 7),
        float_argument(table, 8),
    )
    sums += 4 * width * (first // chunk)
    for row in range(first, last):
        at = row * width
        one_scale = inverse_rms(x, at, width, is_fp32, epsilon)
        scale, along = broadcast(one_scale), broadcast(0.0)
        for k in range(0, width, LANES):
            g = load_at(grad, at + k, is_fp32)
            unit = load_at(x, at + k, is_fp32) * scale
            store(sums + 4 * k, fma(g, unit, load(sums + 4 * k)))
            along = fma(g * load(weight + 4 * k), unit, along)
        mean = broadcast(reduce_sum(along) / nb.float32(width))
        for k in range(0, width, LANES):
            g = load_at(grad, at + k, is_fp32) * load(weight + 4 * k)
            store_at(out, at + k, is_fp32, scale * (g - load_at(x, at + k, is_fp32) * scale * mean))
