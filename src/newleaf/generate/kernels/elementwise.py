"""What happens between the matrices: exponentials, activations, norms, and turning floats into bytes."""

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
    fma,
    larger,
    largest,
    spread,
    spread_int,
    to_nearest,
    total,
    total_int,
)


@kernel
def activate(kind: Any, x: Any, alpha: Any) -> Any:
    """An activation in each lane; those that need an exponential share one.

    silu is x · sigmoid(x); GELU by tanh is x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³); exact GELU
    takes the error function from Abramowitz and Stegun (1964, formula 7.1.26), good to 1.5e-7.
    CLAMPED_SWIGLU's activation is x · sigmoid(alpha x).
    """
    zero, one = spread(0.0), spread(1.0)
    if kind == Activation.NONE:
        return x
    if kind == Activation.RELU:
        return larger(x, zero)
    inner = x
    if kind == Activation.GELU_TANH:
        inner = x * fma(x * x, spread(2 * 0.7978845608028654 * 0.044715), spread(2 * 0.7978845608028654))
    elif kind == Activation.CLAMPED_SWIGLU:
        inner = x * spread(alpha)
    elif kind == Activation.GELU:
        inner = x * x * spread(0.5)
    power = exp(zero - inner)
    if kind != Activation.GELU:
        return x / (one + power)
    root = absolute(x) * spread(0.7071067811865476)
    t = one / fma(spread(0.3275911), root, one)
    p = fma(spread(1.061405429), t, spread(-1.453152027))
    p = fma(p, t, spread(1.421413741))
    p = fma(p, t, spread(-0.284496736))
    p = fma(p, t, spread(0.254829592)) * t
    erf = as_floats(as_bits(one - p * power) | (as_bits(x) & spread_int(-0x80000000)))
    return spread(0.5) * x * (one + erf)


@kernel
def norm(x: Any, out: Any, weight: Any, bias: Any, width: Any, epsilon: Any, centred: Any) -> None:
    """Layer norm or RMS norm of one vector that zeros fill up to whole registers; zeros follow the result
    too."""
    filled = (width + LANES - 1) // LANES * LANES
    mean = nb.float32(0.0)
    if centred:
        acc = spread(0.0)
        for k in range(0, filled, LANES):
            acc = acc + load(x + 4 * k)
        mean = total(acc) / nb.float32(width)
    centre, squares = spread(mean), spread(0.0)
    for k in range(0, filled, LANES):
        away = load(x + 4 * k) - centre
        squares = fma(away, away, squares)
    square = total(squares) - nb.float32(filled - width) * mean * mean  # less what the filling added
    scale = spread(
        nb.float32(1.0) / nb.float32(nb.float32(square / nb.float32(width) + epsilon) ** nb.float32(0.5))
    )
    for k in range(0, filled, LANES):
        value = (load(x + 4 * k) - centre) * scale * load(weight + 4 * k)
        if bias != 0:
            value = value + load(bias + 4 * k)
        store(out + 4 * k, value)


@kernel
def quantize(x: Any, out: Any, width: Any, group: Any) -> None:
    """Floats as signed bytes with a scale for each group: `width` bytes, then the fp32 scales, then the sums
    of each group's bytes."""
    groups = width // group
    scales, sums = out + width, out + width + 4 * groups
    for g in range(groups):
        most = spread(0.0)
        for k in range(0, group, LANES):
            most = larger(most, absolute(load(x + 4 * k)))
        top = largest(most)
        inverse = spread(nb.float32(127.0) / top if top > 1e-30 else nb.float32(0.0))
        total_ = spread_int(0)
        for k in range(0, group, LANES):
            code = to_nearest(load(x + 4 * k) * inverse)
            total_ = total_ + code
            store_low_bytes(out + k, code)
        store_float(scales + 4 * g, top / nb.float32(127.0))
        store_int(sums + 4 * g, total_int(total_))
        x, out = x + 4 * group, out + group
