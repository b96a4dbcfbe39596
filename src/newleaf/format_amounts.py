"""Amounts as people say them."""

from __future__ import annotations


def byte_size(count: float) -> str:
    """Bytes with the unit that leaves a number people can read, in powers of a thousand: 950 B, 38.2 kB, 1.5
    MB, 270 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        digits = 0 if unit == "B" or abs(count) >= 99.95 else 1
        if abs(count) < 999.5 or unit == "TB":
            return f"{count:,.{digits}f} {unit}"
        count /= 1000
    raise AssertionError


def counted(count: float, noun: str, plural: str | None = None) -> str:
    """A number with what is counted: 1 step, 2 steps, 1,200 steps; `plural` for nouns that take more than an
    s."""
    shown = f"{count:,.0f}"
    return f"{shown} {noun if shown == '1' else plural or noun + 's'}"
