"""RMS norm, forward and backward, each in one pass over memory.

The arguments of a loop are the columns of the class named like it. Tensors are passed as addresses of
contiguous memory, of bf16 or fp32 numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba as nb

from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import float_argument, int_argument, load, store
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import inverse_rms, load_at, store_at
from newleaf.kernels.simd import broadcast, fma, reduce_sum


class RMSNormForward(IntEnum):
    X = 0  # [rows, width]
    OUT = 1  # [rows, width]
    WEIGHT = 2  # fp32 [width]
    WIDTH = 3
    IS_FP32 = 4
    EPSILON = 5  # bits of an fp32 number


@parallel(RMSNormForward)
def rms_norm_forward(table: Any, first: Any, last: Any) -> None:
    """out = x / sqrt(mean(x²) + eps) · weight."""
    x, out = int_argument(table, RMSNormForward.X), int_argument(table, RMSNormForward.OUT)
    weight, width = int_argument(table, RMSNormForward.WEIGHT), int_argument(table, RMSNormForward.WIDTH)
    is_fp32, epsilon = (
        int_argument(table, RMSNormForward.IS_FP32),
        float_argument(table, RMSNormForward.EPSILON),
    )
    for row in range(first, last):
        start = row * width
        scale = broadcast(inverse_rms(x, start, width, is_fp32, epsilon))
        for k in range(0, width, LANES):
            store_at(out, start + k, is_fp32, load_at(x, start + k, is_fp32) * scale * load(weight + 4 * k))


class RMSNormBackward(IntEnum):
    X = 0  # [rows, width]
    GRAD = 1  # [rows, width]
    OUT = 2  # [rows, width]
    WEIGHT = 3  # fp32 [width]
    WEIGHT_GRADS = 4  # fp32 [chunks, width] of zeros
    CHUNK = 5
    WIDTH = 6
    IS_FP32 = 7
    EPSILON = 8  # bits of an fp32 number


@parallel(RMSNormBackward)
def rms_norm_backward(table: Any, first: Any, last: Any) -> None:
    """The gradient of x, and the sums over each chunk of the gradient of the weight.

    The norm removes the direction of x: only the part of the gradient that is orthogonal to it flows back.
    """
    x, grad = int_argument(table, RMSNormBackward.X), int_argument(table, RMSNormBackward.GRAD)
    out, weight = int_argument(table, RMSNormBackward.OUT), int_argument(table, RMSNormBackward.WEIGHT)
    sums, chunk = (
        int_argument(table, RMSNormBackward.WEIGHT_GRADS),
        int_argument(table, RMSNormBackward.CHUNK),
    )
    width, is_fp32 = int_argument(table, RMSNormBackward.WIDTH), int_argument(table, RMSNormBackward.IS_FP32)
    epsilon = float_argument(table, RMSNormBackward.EPSILON)
    sums += 4 * width * (first // chunk)
    for row in range(first, last):
        start = row * width
        scale = broadcast(inverse_rms(x, start, width, is_fp32, epsilon))
        dots = broadcast(0.0)
        for k in range(0, width, LANES):
            g = load_at(grad, start + k, is_fp32)
            unit = load_at(x, start + k, is_fp32) * scale
            store(sums + 4 * k, fma(g, unit, load(sums + 4 * k)))
            dots = fma(g * load(weight + 4 * k), unit, dots)
        mean = broadcast(reduce_sum(dots) / nb.float32(width))
        for k in range(0, width, LANES):
            g = load_at(grad, start + k, is_fp32) * load(weight + 4 * k)
            store_at(out, start + k, is_fp32, scale * (g - load_at(x, start + k, is_fp32) * scale * mean))
