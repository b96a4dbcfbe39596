"""A regular expression of the integers between two bounds, of any size, as JSON writes them."""

from __future__ import annotations

DIGITS = 100  # of a bound: the expression grows with them
LARGEST = 10**DIGITS - 1


def integer_range(least: int | None, most: int | None) -> str | None:
    """An expression of `least` to `most`, both included; None stands for no bound, and is given back where
    there is no such integer. Bounds of more than `DIGITS` digits are narrowed to these."""
    least = max(least, -LARGEST) if least is not None else None
    most = min(most, LARGEST) if most is not None else None
    if max(least or 0, -(most or 0)) > LARGEST:
        return None
    parts = []
    if least is None or least < 0:
        nearest = 1 if most is None or most >= 0 else -most
        found = _natural(nearest, -least if least is not None else None)
        parts += [f"-({found})"] if found is not None else []
    if most is None or most >= 0:
        found = _natural(max(least or 0, 0), most)
        parts += [found] if found is not None else []
    return "|".join(parts) or None


def _natural(least: int, most: int | None) -> str | None:
    """Of natural numbers."""
    if most is not None and least > most:
        return None
    low, high = str(least), str(most) if most is not None else None
    if high is not None and len(low) == len(high):
        return _same_length(low, high)
    parts = [_same_length(low, "9" * len(low))]
    if high is None:
        return f"{parts[0]}|[1-9][0-9]{{{len(low)},}}"
    if len(high) - len(low) > 1:
        parts.append(f"[1-9][0-9]{{{len(low)},{len(high) - 2}}}")
    return "|".join([*parts, _same_length("1" + "0" * (len(high) - 1), high)])


def _same_length(low: str, high: str) -> str:
    """Of numbers with as many digits as both bounds."""
    if low == high:
        return low
    if low[0] == high[0]:
        return f"{low[0]}({_same_length(low[1:], high[1:])})"
    rest = len(low) - 1
    first, last, parts = int(low[0]), int(high[0]), []
    if low[1:].strip("0"):
        parts.append(f"{first}({_same_length(low[1:], '9' * rest)})")
        first += 1
    if high[1:].strip("9"):
        parts.append(f"{last}({_same_length('0' * rest, high[1:])})")
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    return "|".join(parts)
