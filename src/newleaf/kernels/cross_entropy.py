"""The cross-entropy loss of each row, and its gradient in place of the logits.

The arguments of the loop are the columns of the class named like it. Tensors are passed as addresses of
contiguous memory.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba as nb
from numpy import exp as np_exp
from numpy import log as np_log

from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import int_argument, load_long, store_float
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import load_at, load_one_at, store_at, store_one_at
from newleaf.kernels.simd import broadcast, maximum, reduce_max, reduce_sum


class CrossEntropy(IntEnum):
    LOGITS = 0  # bf16 or fp32 [rows, width]
    TARGETS = 1  # int64 [rows]
    LOSSES = 2  # fp32 [rows]
    WIDTH = 3
    IS_FP32 = 4


@parallel(CrossEntropy)
def cross_entropy(table: Any, first: Any, last: Any) -> None:
    """Each row's loss; its logits become softmax − one-hot.

    A target below 0 does not count: loss and gradient are zero.
    """
    logits, targets = int_argument(table, CrossEntropy.LOGITS), int_argument(table, CrossEntropy.TARGETS)
    losses, width = int_argument(table, CrossEntropy.LOSSES), int_argument(table, CrossEntropy.WIDTH)
    is_fp32 = int_argument(table, CrossEntropy.IS_FP32)
    full = width // LANES * LANES  # columns that fill vectors
    for row in range(first, last):
        start, target = row * width, load_long(targets + 8 * row)
        if target < 0:
            store_float(losses + 4 * row, nb.float32(0.0))
            for k in range(0, full, LANES):
                store_at(logits, start + k, is_fp32, broadcast(0.0))
            for k in range(full, width):
                store_one_at(logits, start + k, is_fp32, nb.float32(0.0))
            continue
        maxima = broadcast(-3.0e38)
        for k in range(0, full, LANES):
            maxima = maximum(maxima, load_at(logits, start + k, is_fp32))
        top = reduce_max(maxima)
        for k in range(full, width):
            top = max(top, load_one_at(logits, start + k, is_fp32))
        sums, tops = broadcast(0.0), broadcast(top)
        for k in range(0, full, LANES):
            sums = sums + exp(load_at(logits, start + k, is_fp32) - tops)
        total = reduce_sum(sums)
        for k in range(full, width):
            total += nb.float32(np_exp(load_one_at(logits, start + k, is_fp32) - top))
        target_logit = load_one_at(logits, start + target, is_fp32)
        store_float(losses + 4 * row, nb.float32(np_log(total)) + top - target_logit)
        scale = nb.float32(1.0) / total
        scales = broadcast(scale)
        target_gradient = nb.float32(np_exp(target_logit - top)) * scale - nb.float32(1.0)
        for k in range(0, full, LANES):
            store_at(logits, start + k, is_fp32, exp(load_at(logits, start + k, is_fp32) - tops) * scales)
        for k in range(full, width):
            power = nb.float32(np_exp(load_one_at(logits, start + k, is_fp32) - top))
            store_one_at(logits, start + k, is_fp32, power * scale)
        store_one_at(logits, start + target, is_fp32, target_gradient)
