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
from newleaf.kernels.load_store import given, load_long, store_float
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import get, get_one, put, put_one
from newleaf.kernels.simd import larger, largest, spread, total


@parallel
def cross_entropy(table: Any, first: Any, last: Any) -> None:
    """Each row's loss, and its logits turned into softmax − one-hot.

    logits [rows, width], targets int64 [rows], losses fp32 [rows], width, wide. A target below 0 does not
    count: loss and gradient are zero.
    """
    logits, targets, losses = given(table, 0), given(table, 1), given(table, 2)
    width, wide = given(table, 3), given(table, 4)
    whole = width // LANES * LANES
    for row in range(first, last):
        at, target = row * width, load_long(targets + 8 * row)
        if target < 0:
            store_float(losses + 4 * row, nb.float32(0.0))
            for k in range(0, whole, LANES):
                put(logits, at + k, wide, spread(0.0))
            for k in range(whole, width):
                put_one(logits, at + k, wide, nb.float32(0.0))
            continue
        tops = spread(-3.0e38)
        for k in range(0, whole, LANES):
            tops = larger(tops, get(logits, at + k, wide))
        top = largest(tops)
        for k in range(whole, width):
            top = max(top, get_one(logits, at + k, wide))
        sums, off = spread(0.0), spread(top)
        for k in range(0, whole, LANES):
            sums = sums + exp(get(logits, at + k, wide) - off)
        sum_ = total(sums)
        for k in range(whole, width):
            sum_ += nb.float32(np_exp(get_one(logits, at + k, wide) - top))
        store_float(losses + 4 * row, nb.float32(np_log(sum_)) + top - get_one(logits, at + target, wide))
        share = nb.float32(1.0) / sum_
        shares = spread(share)
        hit = nb.float32(np_exp(get_one(logits, at + target, wide) - top)) * share - nb.float32(1.0)
        for k in range(0, whole, LANES):
            put(logits, at + k, wide, exp(get(logits, at + k, wide) - off) * shares)
        for k in range(whole, width):
            put_one(logits, at + k, wide, nb.float32(np_exp(get_one(logits, at + k, wide) - top)) * share)
        put_one(logits, at + target, wide, hit)
