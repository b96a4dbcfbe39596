"""A counter-based random number generator: a request draws the same numbers whatever else runs."""

from __future__ import annotations

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15


def uniform(seed: int, sample: int, place: int) -> float:
    """A number in [0, 1) for token `place` of text `sample` of a request with this `seed`.

    SplitMix64's finalizer (Steele, Lea and Flood 2014) over the three in turn; 53 bits of the result.
    """
    state = 0
    for value in (seed, sample, place):
        state = _mix(state ^ _mix(value & MASK))
    return (state >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + STEP) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
