"""What differs between two records: leaf by leaf, with the old value and the new one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

MISSING = "(not there)"
SHOWN = 60  # characters of a value
CONTEXT = 12  # characters before the first one that differs


@dataclass(frozen=True)
class Difference:
    """One value that is not what it was; `place` leads to it, such as pretraining/fp32/losses/3."""

    place: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return "{}: {} → {}".format(self.place, *_shown(self.old, self.new))


def differences(old: Any, new: Any, tolerance: float = 0.0, place: str = "") -> Iterator[Difference]:
    """Every leaf that differs, in the order of the record. Numbers may differ by `tolerance` times the larger
    of 1 and their size; the order of a dictionary's keys counts too."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        for name in names:
            yield from differences(
                old.get(name, MISSING), new.get(name, MISSING), tolerance, f"{place}/{name}".lstrip("/")
            )
        if list(old) != list(new) and set(old) == set(new):
            yield Difference(f"{place} (order)", list(old), list(new))
    elif isinstance(old, list) and isinstance(new, list):
        for number, pair in enumerate(zip_longest(old, new, fillvalue=MISSING)):
            yield from differences(*pair, tolerance, f"{place}/{number}")
    elif not _same(old, new, tolerance):
        yield Difference(place, old, new)


def _same(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        if math.isnan(old) and math.isnan(new):
            return True
        return old == new or abs(old - new) <= tolerance * max(1.0, abs(old), abs(new))
    return type(old) is type(new) and bool(old == new)


def _shown(old: Any, new: Any) -> tuple[str, str]:
    """Both shortened to where they begin to differ."""
    left, right = (value if value is MISSING else repr(value) for value in (old, new))
    first = next(
        (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    start = max(0, first - CONTEXT) if max(len(left), len(right)) > SHOWN else 0
    return _cut(left, start), _cut(right, start)


def _cut(text: str, start: int) -> str:
    return ("…" if start else "") + text[start : start + SHOWN] + ("…" if len(text) > start + SHOWN else "")
