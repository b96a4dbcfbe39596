"""A regular expression for the integers between two bounds, as JSON writes them."""

from __future__ import annotations

MAX_DIGITS = 100  # of a bound: the expression grows with them
MAX_BOUND = 10**MAX_DIGITS - 1


def integer_range(low: int | None, high: int | None) -> str | None:
    """An expression for `low` to `high`, inclusive; None is no bound, and is returned for an empty range.

    Bounds of more than `MAX_DIGITS` digits are narrowed to that size.
    """
    low = max(low, -MAX_BOUND) if low is not None else None
    high = min(high, MAX_BOUND) if high is not None else None
    if max(low or 0, -(high or 0)) > MAX_BOUND:
        return None
    parts = []
    if low is None or low < 0:
        nearest = 1 if high is None or high >= 0 else -high
        found = _natural(nearest, -low if low is not None else None)
        parts += [f"-({found})"] if found is not None else []
    if high is None or high >= 0:
        found = _natural(max(low or 0, 0), high)
        parts += [found] if found is not None else []
    return "|".join(parts) or None


def _natural(low: int, high: int | None) -> str | None:
    """An expression for natural numbers."""
    if high is not None and low > high:
        return None
    first, last = str(low), str(high) if high is not None else None
    if last is not None and len(first) == len(last):
        return _same_length(first, last)
    parts = [_same_length(first, "9" * len(first))]
    if last is None:
        return f"{parts[0]}|[1-9][0-9]{{{len(first)},}}"
    if len(last) - len(first) > 1:
        parts.append(f"[1-9][0-9]{{{len(first)},{len(last) - 2}}}")
    return "|".join([*parts, _same_length("1" + "0" * (len(last) - 1), last)])


def _same_length(low: str, high: str) -> str:
    """An expression for numbers with as many digits as both bounds."""
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
