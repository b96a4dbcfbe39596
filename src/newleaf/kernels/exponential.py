"""The exponential of sixteen numbers at once; everything else with a curve in it is made of this one."""

from __future__ import annotations

from typing import Any

from newleaf.kernels.compiler import kernel
from newleaf.kernels.simd import (
    as_floats,
    broadcast,
    broadcast_int,
    fma,
    maximum,
    minimum,
    round_to_ints,
    to_floats,
)


@kernel
def exp(x: Any) -> Any:
    """e^x in each lane, to about one unit in the last place: 2^n · e^r with |r| ≤ ln 2 / 2, and e^r by its
    series."""
    x = maximum(minimum(x, broadcast(88.0)), broadcast(-87.0))
    n = round_to_ints(x * broadcast(1.4426950408889634))
    whole = to_floats(n)
    # ln 2 in two parts, so that r loses nothing.
    r = fma(whole, broadcast(-0.693145751953125), x)
    r = fma(whole, broadcast(-1.428606765330187e-06), r)
    p = broadcast(1 / 5040)
    p = fma(p, r, broadcast(1 / 720))
    p = fma(p, r, broadcast(1 / 120))
    p = fma(p, r, broadcast(1 / 24))
    p = fma(p, r, broadcast(1 / 6))
    p = fma(p, r, broadcast(0.5))
    p = fma(p, r, broadcast(1.0))
    p = fma(p, r, broadcast(1.0))
    return p * as_floats((n + broadcast_int(127)) << broadcast_int(23))
