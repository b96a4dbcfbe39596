"""SwiGLU and GELU, forward and backward, each in one pass over memory.

The arguments of a loop are the columns of the class named like it. Tensors are passed as addresses of
contiguous memory, of bf16 or fp32 numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import int_argument
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import load_at, store_at
from newleaf.kernels.simd import broadcast, fma, reciprocal

# GELU by tanh is x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³): 2u = GELU_X · x + GELU_X3 · x³.
GELU_X = 2 * 0.7978845608028654
GELU_X3 = GELU_X * 0.044715
GELU_X3_SLOPE = 3 * GELU_X * 0.044715


class SwiGLUForward(IntEnum):
    GATE_UP = 0  # [rows, 2 · width]
    OUT = 1  # [rows, width]
    WIDTH = 2
    IS_FP32 = 3


@parallel(SwiGLUForward)
def swiglu_forward(table: Any, first: Any, last: Any) -> None:
    """out = silu(gate) · up."""
    gate_up, out = int_argument(table, SwiGLUForward.GATE_UP), int_argument(table, SwiGLUForward.OUT)
    width, is_fp32 = int_argument(table, SwiGLUForward.WIDTH), int_argument(table, SwiGLUForward.IS_FP32)
    one = broadcast(1.0)
    for row in range(first, last):
        gates, ups, outs = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate = load_at(gate_up, gates + k, is_fp32)
            silu = gate * reciprocal(one + exp(broadcast(0.0) - gate))
            store_at(out, outs + k, is_fp32, silu * load_at(gate_up, ups + k, is_fp32))


class SwiGLUBackward(IntEnum):
    GATE_UP = 0  # [rows, 2 · width]
    GRAD = 1  # [rows, width]
    OUT = 2  # the gradients of gate and up [rows, 2 · width]
    WIDTH = 3
    IS_FP32 = 4


@parallel(SwiGLUBackward)
def swiglu_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of gate and up."""
    gate_up, grad = int_argument(table, SwiGLUBackward.GATE_UP), int_argument(table, SwiGLUBackward.GRAD)
    out, width = int_argument(table, SwiGLUBackward.OUT), int_argument(table, SwiGLUBackward.WIDTH)
    is_fp32 = int_argument(table, SwiGLUBackward.IS_FP32)
    one = broadcast(1.0)
    for row in range(first, last):
        gates, ups, grads = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate, up = load_at(gate_up, gates + k, is_fp32), load_at(gate_up, ups + k, is_fp32)
            g = load_at(grad, grads + k, is_fp32)
            sigmoid = reciprocal(one + exp(broadcast(0.0) - gate))
            silu = gate * sigmoid
            store_at(out, gates + k, is_fp32, g * up * sigmoid * (one + gate - silu))
            store_at(out, ups + k, is_fp32, g * silu)


class GELUForward(IntEnum):
    X = 0  # [rows, width]
    OUT = 1  # [rows, width]
    WIDTH = 2
    IS_FP32 = 3


@parallel(GELUForward)
def gelu_forward(table: Any, first: Any, last: Any) -> None:
    """out = GELU(x), by tanh."""
    x, out = int_argument(table, GELUForward.X), int_argument(table, GELUForward.OUT)
    width, is_fp32 = int_argument(table, GELUForward.WIDTH), int_argument(table, GELUForward.IS_FP32)
    one = broadcast(1.0)
    for k in range(first * width, last * width, LANES):
        value = load_at(x, k, is_fp32)
        inner = value * fma(value * value, broadcast(GELU_X3), broadcast(GELU_X))
        store_at(out, k, is_fp32, value * reciprocal(one + exp(broadcast(0.0) - inner)))


class GELUBackward(IntEnum):
    X = 0  # [rows, width]
    GRAD = 1  # [rows, width]
    OUT = 2  # [rows, width]
    WIDTH = 3
    IS_FP32 = 4


@parallel(GELUBackward)
def gelu_backward(table: Any, first: Any, last: Any) -> None:
    """out = grad · GELU'(x), by tanh."""
    x, grad = int_argument(table, GELUBackward.X), int_argument(table, GELUBackward.GRAD)
    out, width = int_argument(table, GELUBackward.OUT), int_argument(table, GELUBackward.WIDTH)
    is_fp32 = int_argument(table, GELUBackward.IS_FP32)
    one = broadcast(1.0)
    for k in range(first * width, last * width, LANES):
        value = load_at(x, k, is_fp32)
        square = value * value
        inner = value * fma(square, broadcast(GELU_X3), broadcast(GELU_X))
        sigmoid = reciprocal(one + exp(broadcast(0.0) - inner))
        slope = value * fma(square, broadcast(GELU_X3_SLOPE), broadcast(GELU_X)) * (one - sigmoid)
        store_at(out, k, is_fp32, load_at(grad, k, is_fp32) * sigmoid * (one + slope))
