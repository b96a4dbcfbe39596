"""What the loops of a training step share: the values they were called with, and rows of bf16 or fp32
(`wide`) numbers."""

from __future__ import annotations

from typing import Any

import numba as nb
from numpy import sqrt as np_sqrt

from newleaf.kernels.compiler import kernel
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import (
    load,
    load_bfloat,
    load_float,
    load_one_bfloat,
    store,
    store_bfloat,
    store_float,
    store_one_bfloat,
)
from newleaf.kernels.simd import fma, spread, total


@kernel
def get(base: Any, k: Any, wide: Any) -> Any:
    """16 numbers from the k-th on."""
    return load(base + 4 * k) if wide else load_bfloat(base + 2 * k)


@kernel
def put(base: Any, k: Any, wide: Any, value: Any) -> None:
    if wide:
        store(base + 4 * k, value)
    else:
        store_bfloat(base + 2 * k, value)


@kernel
def get_one(base: Any, k: Any, wide: Any) -> Any:
    return load_float(base + 4 * k) if wide else load_one_bfloat(base + 2 * k)


@kernel
def put_one(base: Any, k: Any, wide: Any, value: Any) -> None:
    if wide:
        store_float(base + 4 * k, value)
    else:
        store_one_bfloat(base + 2 * k, value)


@kernel
def inverse_root(x: Any, at: Any, width: Any, wide: Any, epsilon: Any) -> Any:
    """1 / sqrt(mean(x²) + eps) of one vector."""
    squares = spread(0.0)
    for k in range(0, width, LANES):
        value = get(x, at + k, wide)
        squares = fma(value, value, squares)
    return nb.float32(1.0) / nb.float32(np_sqrt(total(squares) / nb.float32(width) + epsilon))
