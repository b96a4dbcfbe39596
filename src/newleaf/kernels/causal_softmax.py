"""The causal softmax of attention scores, forward and backward, in place.

The arguments of a loop are the columns of the class named like it. Tensors are passed as addresses of
contiguous memory, of bf16 or fp32 numbers unless said otherwise.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba as nb

from newleaf.kernels.compiler import kernel
from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import int_argument, load_int
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import load_at, store_at
from newleaf.kernels.simd import broadcast, fma, maximum, reduce_max, reduce_sum, select_first_lanes


@kernel
def _mask_lanes(values: Any, key: Any, begin: Any, end: Any, masked: Any) -> Any:
    """The lanes, counted from `key`, of keys from `begin` to before `end`; `masked` in the others."""
    before_end = select_first_lanes(values, nb.int32(end - key), masked)
    return select_first_lanes(masked, nb.int32(begin - key), before_end)


class CausalSoftmaxForward(IntEnum):
    SCORES = 0  # [rows, keys]: `queries` rows for each sequence and head
    QUERIES = 1
    KEYS = 2
    FIRST_QUERY = 3  # the first query's position among the keys
    IS_FP32 = 4
    DOCUMENT_STARTS = 5  # int32 [B, T], from the first query on; 0 where all see the first key
    LENGTH = 6  # T
    FIRST_KEY = 7  # the first key's position
    SEQUENCE_ROWS = 8  # rows of a sequence


@parallel(CausalSoftmaxForward)
def causal_softmax_forward(table: Any, first: Any, last: Any) -> None:
    """Softmax of each row over the keys that its query may see; zeros for the others."""
    scores = int_argument(table, CausalSoftmaxForward.SCORES)
    queries = int_argument(table, CausalSoftmaxForward.QUERIES)
    keys = int_argument(table, CausalSoftmaxForward.KEYS)
    first_query = int_argument(table, CausalSoftmaxForward.FIRST_QUERY)
    is_fp32 = int_argument(table, CausalSoftmaxForward.IS_FP32)
    document_starts = int_argument(table, CausalSoftmaxForward.DOCUMENT_STARTS)
    length = int_argument(table, CausalSoftmaxForward.LENGTH)
    first_key = int_argument(table, CausalSoftmaxForward.FIRST_KEY)
    sequence_rows = int_argument(table, CausalSoftmaxForward.SEQUENCE_ROWS)
    masked, zeros = broadcast(-3.0e38), broadcast(0.0)
    for row in range(first, last):
        at, begin, end = row * keys, 0, first_query + row % queries + 1
        if document_starts != 0:
            place = row // sequence_rows * length + row % queries
            begin = load_int(document_starts + 4 * place) - first_key
        start = begin // LANES * LANES
        maxima, sums = masked, zeros
        for k in range(start, end, LANES):
            maxima = maximum(maxima, _mask_lanes(load_at(scores, at + k, is_fp32), k, begin, end, masked))
        top = broadcast(reduce_max(maxima))
        for k in range(start, end, LANES):
            power = _mask_lanes(exp(load_at(scores, at + k, is_fp32) - top), k, begin, end, zeros)
            sums = sums + power
            store_at(scores, at + k, is_fp32, power)
        scale = broadcast(nb.float32(1.0) / reduce_sum(sums))
        for k in range(start, end, LANES):
            store_at(scores, at + k, is_fp32, load_at(scores, at + k, is_fp32) * scale)
        for k in range(0, start, LANES):
            store_at(scores, at + k, is_fp32, zeros)
        for k in range((end + LANES - 1) // LANES * LANES, keys, LANES):
            store_at(scores, at + k, is_fp32, zeros)


class CausalSoftmaxBackward(IntEnum):
    WEIGHTS = 0  # [rows, keys]: the result of the forward loop
    GRADS = 1  # [rows, keys]: gradients of the weights, which become those of the scores
    QUERIES = 2
    KEYS = 3
    FIRST_QUERY = 4  # the first query's position among the keys
    IS_FP32 = 5


@parallel(CausalSoftmaxBackward)
def causal_softmax_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of the scores, w · (g − Σ g w)."""
    weights = int_argument(table, CausalSoftmaxBackward.WEIGHTS)
    grads = int_argument(table, CausalSoftmaxBackward.GRADS)
    queries = int_argument(table, CausalSoftmaxBackward.QUERIES)
    keys = int_argument(table, CausalSoftmaxBackward.KEYS)
    first_query = int_argument(table, CausalSoftmaxBackward.FIRST_QUERY)
    is_fp32 = int_argument(table, CausalSoftmaxBackward.IS_FP32)
    for row in range(first, last):
        at, end = row * keys, first_query + row % queries + 1
        dots = broadcast(0.0)
        for k in range(0, end, LANES):
            dots = fma(load_at(weights, at + k, is_fp32), load_at(grads, at + k, is_fp32), dots)
        dot = broadcast(reduce_sum(dots))
        for k in range(0, end, LANES):
            gradient = load_at(weights, at + k, is_fp32) * (load_at(grads, at + k, is_fp32) - dot)
            store_at(grads, at + k, is_fp32, gradient)
        for k in range((end + LANES - 1) // LANES * LANES, keys, LANES):
            store_at(grads, at + k, is_fp32, broadcast(0.0))
