"""The loss of each row and its gradient, which takes the place of the logits.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

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


@parallel
def cross_entropy(table: Any, first: Any, last: Any) -> None:
    """Each row's loss, and its logits turned into softmax − one-hot.

    logits [rows, width], targets int64 [rows], losses fp32 [rows], width, wide. A target below 0 does not
    count: loss and gradient are zero.
    """
    logits, targets, losses = int_argument(table, 0), int_argument(table, 1), int_argument(table, 2)
    width, is_fp32 = int_argument(table, 3), int_argument(table, 4)
    whole = width // LANES * LANES
    for row in range(first, last):
        at, target = row * width, load_long(targets + 8 * row)
        if target < 0:
            store_float(losses + 4 * row, nb.float32(0.0))
            for k in range(0, whole, LANES):
                store_at(logits, at + k, is_fp32, broadcast(0.0))
            for k in range(whole, width):
                store_one_at(logits, at + k, is_fp32, nb.float32(0.0))
            continue
        tops = broadcast(-3.0e38)
        for k in range(0, whole, LANES):
            tops = maximum(tops, load_at(logits, at + k, is_fp32))
        top = reduce_max(tops)
        for k in range(whole, width):
            top = max(top, load_one_at(logits, at + k, is_fp32))
        sums, off = broadcast(0.0), broadcast(top)
        for k in range(0, whole, LANES):
            sums = sums + exp(load_at(logits, at + k, is_fp32) - off)
        sum_ = reduce_sum(sums)
        for k in range(whole, width):
            sum_ += nb.float32(np_exp(load_one_at(logits, at + k, is_fp32) - top))
        store_float(
            losses + 4 * row, nb.float32(np_log(sum_)) + top - load_one_at(logits, at + target, is_fp32)
        )
        share = nb.float32(1.0) / sum_
        shares = broadcast(share)
        hit = nb.float32(np_exp(load_one_at(logits, at + target, is_fp32) - top)) * share - nb.float32(1.0)
        for k in range(0, whole, LANES):
            store_at(logits, at + k, is_fp32, exp(load_at(logits, at + k, is_fp32) - off) * shares)
        for k in range(whole, width):
            store_one_at(
                logits,
                at + k,
                is_fp32,
                nb.float32(np_exp(load_one_at(logits, at + k, is_fp32) - top)) * share,
            )
        store_one_at(logits, at + target, is_fp32, hit)
