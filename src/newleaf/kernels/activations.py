"""SwiGLU and GELU, forwards and backwards, in one pass over memory each.

Every loop is a function call(rows, chunk, *values); its docstring names the values. Addresses are of
contiguous memory.
"""

from __future__ import annotations

from typing import Any

from newleaf.kernels.exponential import exp
from newleaf.kernels.llvm_vectors import LANES
from newleaf.kernels.load_store import given
from newleaf.kernels.openmp import parallel
from newleaf.kernels.row_access import get, put
from newleaf.kernels.simd import fma, reciprocal, spread

TWICE, CUBE = 2 * 0.7978845608028654, 0.044715  # of GELU by tanh


@parallel
def swiglu_forward(table: Any, first: Any, last: Any) -> None:
    """out = silu(gate) · up over rows of `width`. gate_up [rows, 2·width], out [rows, width], width, wide."""
    both, out, width, wide = given(table, 0), given(table, 1), given(table, 2), given(table, 3)
    one = spread(1.0)
    for row in range(first, last):
        gates, ups, outs = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate = get(both, gates + k, wide)
            put(
                out,
                outs + k,
                wide,
                gate * reciprocal(one + exp(spread(0.0) - gate)) * get(both, ups + k, wide),
            )


@parallel
def swiglu_backward(table: Any, first: Any, last: Any) -> None:
    """The gradients of gate and up. gate_up [rows, 2·width], grad [rows, width], out [rows, 2·width], width,
    wide."""
    both, grad, out, width, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    one = spread(1.0)
    for row in range(first, last):
        gates, ups, grads = 2 * row * width, (2 * row + 1) * width, row * width
        for k in range(0, width, LANES):
            gate, up, g = get(both, gates + k, wide), get(both, ups + k, wide), get(grad, grads + k, wide)
            sigmoid = reciprocal(one + exp(spread(0.0) - gate))
            silu = gate * sigmoid
            put(out, gates + k, wide, g * up * sigmoid * (one + gate - silu))
            put(out, ups + k, wide, g * silu)


@parallel
def gelu_forward(table: Any, first: Any, last: Any) -> None:
    """GELU by tanh, x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³). x, out [rows, width], width,
    wide."""
    x, out, width, wide = given(table, 0), given(table, 1), given(table, 2), given(table, 3)
    one = spread(1.0)
    for k in range(first * width, last * width, LANES):
        value = get(x, k, wide)
        inner = value * fma(value * value, spread(TWICE * CUBE), spread(TWICE))
        put(out, k, wide, value * reciprocal(one + exp(spread(0.0) - inner)))


@parallel
def gelu_backward(table: Any, first: Any, last: Any) -> None:
    """out = grad · GELU'(x). x, grad, out [rows, width], width, wide."""
    x, grad, out, width, wide = (
        given(table, 0),
        given(table, 1),
        given(table, 2),
        given(table, 3),
        given(table, 4),
    )
    one = spread(1.0)
    for k in range(first * width, last * width, LANES):
        value = get(x, k, wide)
        square = value * value
        sigmoid = reciprocal(
            one + exp(spread(0.0) - value * fma(square, spread(TWICE * CUBE), spread(TWICE)))
        )
        gradient = value * fma(square, spread(3 * TWICE * CUBE), spread(TWICE)) * (one - sigmoid)
        put(out, k, wide, get(grad, k, wide) * sigmoid * (one + gradient))
