"""What happens between the matrices: activations, norms, and quantization of inputs to int8."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, Activation
from newleaf.kernels.compiler import kernel
from newleaf.kernels.exponential import exp
from newleaf.kernels.load_store import load, store, store_float, store_int, store_low_bytes
from newleaf.kernels.simd import (
    absolute,
    as_bits,
    as_floats,
    broadcast,
    broadcast_int,
    fma,
    maximum,
    reduce_max,
    reduce_sum,
    reduce_sum_int,
    round_to_ints,
)

# GELU by tanh is x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³): 2u = GELU_X · x + GELU_X3 · x³.
GELU_X = 2 * 0.7978845608028654
GELU_X3 = GELU_X * 0.044715


@kernel
def activate(kind: Any, x: Any, alpha: Any) -> Any:
    """An activation in each lane; those that need an exponential share one.

    SiLU is x · sigmoid(x), and CLAMPED_SWIGLU's activation x · sigmoid(alpha x). Exact GELU takes the error
    function from Abramowitz and Stegun (1964, formula 7.1.26), good to 1.5e-7.
    """
    zero, one = broadcast(0.0), broadcast(1.0)
    if kind == Activation.NONE:
        return x
    if kind == Activation.RELU:
        return maximum(x, zero)
    inner = x
    if kind == Activation.GELU_TANH:
        inner = x * fma(x * x, broadcast(GELU_X3), broadcast(GELU_X))
    elif kind == Activation.CLAMPED_SWIGLU:
        inner = x * broadcast(alpha)
    elif kind == Activation.GELU:
        inner = x * x * broadcast(0.5)
    power = exp(zero - inner)
    if kind != Activation.GELU:
        return x / (one + power)
    root = absolute(x) * broadcast(0.7071067811865476)
    t = one / fma(broadcast(0.3275911), root, one)
    p = fma(broadcast(1.061405429), t, broadcast(-1.453152027))
    p = fma(p, t, broadcast(1.421413741))
    p = fma(p, t, broadcast(-0.284496736))
    p = fma(p, t, broadcast(0.254829592)) * t
    erf = as_floats(as_bits(one - p * power) | (as_bits(x) & broadcast_int(-0x80000000)))
    return broadcast(0.5) * x * (one + erf)


@kernel
def normalize(x: Any, out: Any, weight: Any, bias: Any, width: Any, epsilon: Any, subtract_mean: Any) -> None:
    """Layer norm or RMS norm of one vector, which zeros pad to full registers; so they do the result."""
    padded = (width + LANES - 1) // LANES * LANES
    mean = nb.float32(0.0)
    if subtract_mean:
        acc = broadcast(0.0)
        for k in range(0, padded, LANES):
            acc = acc + load(x + 4 * k)
        mean = reduce_sum(acc) / nb.float32(width)
    center, squares = broadcast(mean), broadcast(0.0)
    for k in range(0, padded, LANES):
        delta = load(x + 4 * k) - center
        squares = fma(delta, delta, squares)
    square = reduce_sum(squares) - nb.float32(padded - width) * mean * mean  # less what the padding added
    scale = broadcast(
        nb.float32(1.0) / nb.float32(nb.float32(square / nb.float32(width) + epsilon) ** nb.float32(0.5))
    )
    for k in range(0, padded, LANES):
        value = (load(x + 4 * k) - center) * scale * load(weight + 4 * k)
        if bias != 0:
            value = value + load(bias + 4 * k)
        store(out + 4 * k, value)


@kernel
def quantize_int8(x: Any, out: Any, width: Any, group: Any) -> None:
    """Floats as signed bytes with a scale for each group.

    `out` gets `width` bytes, then the fp32 scales, then the sum of each group's bytes.
    """
    groups = width // group
    scales, sums = out + width, out + width + 4 * groups
    for g in range(groups):
        maxima = broadcast(0.0)
        for k in range(0, group, LANES):
            maxima = maximum(maxima, absolute(load(x + 4 * k)))
        top = reduce_max(maxima)
        inverse = broadcast(nb.float32(127.0) / top if top > 1e-30 else nb.float32(0.0))
        total = broadcast_int(0)
        for k in range(0, group, LANES):
            code = round_to_ints(load(x + 4 * k) * inverse)
            total = total + code
            store_low_bytes(out + k, code)
        store_float(scales + 4 * g, top / nb.float32(127.0))
        store_int(sums + 4 * g, reduce_sum_int(total))
        x, out = x + 4 * group, out + group
