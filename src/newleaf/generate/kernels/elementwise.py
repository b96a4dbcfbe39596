"""What happens between the matrices: exponentials, activations, norms, and turning floats into bytes."""

from __future__ import annotations

from typing import Any

import numba as nb
from numba import njit

from newleaf.generate.kernels.layout import LANES, Activation
from newleaf.generate.kernels.vectors import (
    absolute, as_bits, as_floats, fma, larger, largest, load, smaller, spread, spread_int, store, store_float, store_int, store_low_bytes,
    to_floats, to_nearest, total, total_int,
)  # fmt: skip


@njit(nogil=True)
def exp(x: Any) -> Any:
    """e^x in each lane, to about one unit in the last place: 2^n · e^r with |r| ≤ ln 2 / 2, and e^r by its series."""
    x = larger(smaller(x, spread(88.0)), spread(-87.0))
    n = to_nearest(x * spread(1.4426950408889634))
    whole = to_floats(n)
    # ln 2 in two parts, so that r loses nothing.
    r = fma(whole, spread(-0.693145751953125), x)
    r = fma(whole, spread(-1.428606765330187e-06), r)
    p = spread(1 / 5040)
    p = fma(p, r, spread(1 / 720))
    p = fma(p, r, spread(1 / 120))
    p = fma(p, r, spread(1 / 24))
    p = fma(p, r, spread(1 / 6))
    p = fma(p, r, spread(0.5))
    p = fma(p, r, spread(1.0))
    p = fma(p, r, spread(1.0))
    return p * as_floats((n + spread_int(127)) << spread_int(23))


@njit(nogil=True)
def sigmoid(x: Any) -> Any:
    return spread(1.0) / (spread(1.0) + exp(spread(0.0) - x))


@njit(nogil=True)
def erf(x: Any) -> Any:
    """The error function to 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26)."""
    sign = as_bits(x) & spread_int(-0x80000000)
    size = absolute(x)
    t = spread(1.0) / fma(spread(0.3275911), size, spread(1.0))
    p = fma(spread(1.061405429), t, spread(-1.453152027))
    p = fma(p, t, spread(1.421413741))
    p = fma(p, t, spread(-0.284496736))
    p = fma(p, t, spread(0.254829592)) * t
    value = spread(1.0) - p * exp(spread(0.0) - size * size)
    return as_floats(as_bits(value) | sign)


@njit(nogil=True)
def activate(kind: Any, x: Any) -> Any:
    """GELU by tanh is x · sigmoid(2u) with u = sqrt(2/π) (x + 0.044715 x³)."""
    if kind == Activation.GELU_TANH:
        return x * sigmoid(x * fma(x * x, spread(2 * 0.7978845608028654 * 0.044715), spread(2 * 0.7978845608028654)))
    if kind == Activation.GELU:
        return spread(0.5) * x * (spread(1.0) + erf(x * spread(0.7071067811865476)))
    if kind == Activation.RELU:
        return larger(x, spread(0.0))
    if kind == Activation.SILU:
        return x * sigmoid(x)
    return x


@njit(nogil=True)
def gate(kind: Any, gated: Any, up: Any, alpha: Any, limit: Any) -> Any:
    """activation(gate) · up; gpt-oss's form clamps both and adds one to up."""
    if kind == Activation.CLAMPED_SWIGLU:
        gated = smaller(gated, spread(limit))
        up = larger(smaller(up, spread(limit)), spread(-limit))
        return gated * sigmoid(spread(alpha) * gated) * (up + spread(1.0))
    return activate(kind, gated) * up


@njit(nogil=True)
def norm(x: Any, out: Any, weight: Any, bias: Any, width: Any, epsilon: Any, centred: Any) -> None:
    """Layer norm or RMS norm of one vector that zeros fill up to whole registers; zeros follow the result too."""
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
    scale = spread(nb.float32(1.0) / nb.float32(nb.float32(square / nb.float32(width) + epsilon) ** nb.float32(0.5)))
    for k in range(0, filled, LANES):
        value = (load(x + 4 * k) - centre) * scale * load(weight + 4 * k)
        if bias != 0:
            value = value + load(bias + 4 * k)
        store(out + 4 * k, value)


@njit(nogil=True)
def quantize(x: Any, out: Any, width: Any, group: Any) -> None:
    """Floats as signed bytes with a scale for each group: `width` bytes, then the fp32 scales, then the sums of each group's bytes."""
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
