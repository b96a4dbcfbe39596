"""SwiGLU and GELU, forwards and backwards, in one pass over memory each.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

from typing import Any

from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import int_argument
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import load_at, store_at
from newleaf.kernels.simd import broadcast, fma, reciprocal

GELU_SLOPE, GELU_CUBIC = 2 * 0.7978845608028654, 0.044715  # of GELU by tanh


@parallel
def swiglu_forward(table: Any, first: Any, last: Any) -> None:
    """out = silu(gate) · up over rows of `width`. gate_up [rows, 2·width], out [rows, width], width, wide."""
    both, out, width, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
    )
    one = broadcast(1.0)
    for row in range(first, last):
        gates, ups, outs = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate = load_at(both, gates + k, is_fp32)
            store_at(
                out,
                outs + k,
                is_fp32,
                gate * reciprocal(one + exp(broadcast(0.0) - gate)) * load_at(both, ups + k, is_fp32),
            )


@parallel
def swiglu_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of gate and up. gate_up [rows, 2·width], grad [rows, width], out [rows, 2·width], width,
    wide."""
    both, grad, out, width, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
        int_argument(table, 4),
    )
    one = broadcast(1.0)
    for row in range(first, last):
        gates, ups, grads = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate, up, g = (
                load_at(both, gates + k, is_fp32),
                load_at(both, ups + k, is_fp32),
                load_at(grad, grads + k, is_fp32),
            )
            sigmoid = reciprocal(one + exp(broadcast(0.0) - gate))
            silu = gate * sigmoid
            store_at(out, gates + k, is_fp32, g * up * sigmoid * (one + gate - silu))
            store_at(out, ups + k, is_fp32, g * silu)


@parallel
def gelu_forward(table: Any, first: Any, last: Any) -> None:
    """GELU by tanh, x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³). x, out [rows, width], width,
    wide."""
    x, out, width, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
    )
    one = broadcast(1.0)
    for k in range(first * width, last * width, LANES):
        value = load_at(x, k, is_fp32)
        inner = value * fma(value * value, broadcast(GELU_SLOPE * GELU_CUBIC), broadcast(GELU_SLOPE))
        store_at(out, k, is_fp32, value * reciprocal(one + exp(broadcast(0.0) - inner)))


@parallel
def gelu_backward(table: Any, first: Any, last: Any) -> None:
    """out = grad · GELU'(x). x, grad, out [rows, width], width, wide."""
    x, grad, out, width, is_fp32 = (
        int_argument(table, 0),
        int_argument(table, 1),
        int_argument(table, 2),
        int_argument(table, 3),
        int_argument(table, 4),
    )
    one = broadcast(1.0)
    for k in range(first * width, last * width, LANES):
        value = load_at(x, k, is_fp32)
        square = value * value
        sigmoid = reciprocal(
            one
            + exp(
                broadcast(0.0)
                - value * fma(square, broadcast(GELU_SLOPE * GELU_CUBIC), broadcast(GELU_SLOPE))
            )
        )
        gradient = (
            value
            * fma(square, broadcast(3 * GELU_SLOPE * GELU_CUBIC), broadcast(GELU_SLOPE))
            * (one - sigmoid)
        )
        store_at(out, k, is_fp32, load_at(grad, k, is_fp32) * sigmoid * (one + gradient))
