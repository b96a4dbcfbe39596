"""RMS norm, forwards and backwards, in one pass over memory each.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import fraction, given, load, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import get, inverse_root, put
from newleaf.kernels.simd import fma, spread, total


@parallel
def rms_norm_forward(table: Any, first: Any, last: Any) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight. x, out [rows, width], weight fp32 [width], width, wide, eps
    (its fp32 bits)."""
    x, out, weight, width, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    epsilon = fraction(table, 5)
    for row in range(first, last):
        at = row * width
        scale = spread(inverse_root(x, at, width, wide, epsilon))
        for k in range(0, width, LANES):
            put(out, at + k, wide, get(x, at + k, wide) * scale * load(weight + 4 * k))


@parallel
def rms_norm_backward(table: Any, first: Any, last: Any) -> None:
    """x, grad, out [rows, width], weight fp32 [width], weight_grads fp32 [chunks, width] of zeros, chunk,
    width, wide, eps.

    The norm removes x's own direction: only what is orthogonal to it flows back.
    """
    x, grad, out, weight, sums = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    chunk, width, wide, epsilon = given(table, 5), given(table, 6), given(table, 7), fraction(table, 8)
    sums += 4 * width * (first // chunk)
    for row in range(first, last):
        at = row * width
        one_scale = inverse_root(x, at, width, wide, epsilon)
        scale, along = spread(one_scale), spread(0.0)
        for k in range(0, width, LANES):
            g = get(grad, at + k, wide)
            unit = get(x, at + k, wide) * scale
            store(sums + 4 * k, fma(g, unit, load(sums + 4 * k)))
            along = fma(g * load(weight + 4 * k), unit, along)
        mean = spread(total(along) / nb.float32(width))
        for k in range(0, width, LANES):
            g = get(grad, at + k, wide) * load(weight + 4 * k)
            put(out, at + k, wide, scale * (g - get(x, at + k, wide) * scale * mean))
