"""Loading and storing bf16 or fp32 numbers by their index, for the loops of training."""

from __future__ import annotations

from typing import Any

import numba as nb
from numpy import sqrt as np_sqrt

from newleaf.kernels.compiler import kernel
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import (
    load,
    load_bf16,
    load_float,
    load_one_bf16,
    store,
    store_bf16,
    store_float,
    store_one_bf16,
)
from newleaf.kernels.simd import broadcast, fma, reduce_sum


@kernel
def load_at(base: Any, k: Any, is_fp32: Any) -> Any:
    """16 numbers from index k on, as fp32."""
    return load(base + 4 * k) if is_fp32 else load_bf16(base + 2 * k)


@kernel
def store_at(base: Any, k: Any, is_fp32: Any, value: Any) -> None:
    if is_fp32:
        store(base + 4 * k, value)
    else:
        store_bf16(base + 2 * k, value)


@kernel
def load_one_at(base: Any, k: Any, is_fp32: Any) -> Any:
    return load_float(base + 4 * k) if is_fp32 else load_one_bf16(base + 2 * k)


@kernel
def store_one_at(base: Any, k: Any, is_fp32: Any, value: Any) -> None:
    if is_fp32:
        store_float(base + 4 * k, value)
    else:
        store_one_bf16(base + 2 * k, value)


@kernel
def inverse_rms(x: Any, start: Any, width: Any, is_fp32: Any, epsilon: Any) -> Any:
    """1 / sqrt(mean(x²) + eps) of the `width` numbers from index `start` on."""
    squares = broadcast(0.0)
    for k in range(0, width, LANES):
        value = load_at(x, start + k, is_fp32)
        squares = fma(value, value, squares)
    return nb.float32(1.0) / nb.float32(np_sqrt(reduce_sum(squares) / nb.float32(width) + epsilon))
