"""Numbers of a JSON Schema: which of them llguidance keeps, since it reads doubles, and bounds that it keeps
within the given ones."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

MOST = 2**63 - 1024  # the largest bound of integers: a double below 2⁶³
BOUNDS = (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1))
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(schema: dict[str, Any]) -> bool:
    """Whether of numbers the schema takes integers alone."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "integer" in kinds and "number" not in kinds


def plain_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with the bounds of today's draft, those of integers included in the range."""
    found, integer = dict(schema), is_integer(schema)
    for name in COUNTS:
        if isinstance(found.get(name), float) and found[name].is_integer():
            found[name] = int(found[name])
    for name, bound, sign in BOUNDS:
        if found.get(name) is True and is_number(found.get(bound)):  # draft 4
            found[name] = found.pop(bound)
        elif isinstance(found.get(name), bool):
            del found[name]
        if integer and is_number(found.get(name)):
            inner = math.floor(found[name]) + 1 if sign > 0 else math.ceil(found[name]) - 1
            del found[name]
            old = found.get(bound)
            found[bound] = inner if not is_number(old) else max(inner, old) if sign > 0 else min(inner, old)
        if integer and is_number(found.get(bound)):
            found[bound] = math.ceil(found[bound]) if sign > 0 else math.floor(found[bound])
    return found


def inward_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with bounds that are doubles, within the given ones."""
    found, integer = dict(schema), is_integer(schema)
    for *names, sign in BOUNDS:
        for each in names:
            if is_number(found.get(each)):
                found[each] = _inward(found[each], sign, integer)
    return found


def has_exact_bounds(schema: dict[str, Any]) -> bool:
    """Whether llguidance keeps the bounds as they are."""
    moved, bounds = (
        inward_bounds(schema),
        [each for *names, _ in BOUNDS for each in names if is_number(schema.get(each))],
    )
    return all(moved[each] == schema[each] and abs(schema[each]) <= MOST for each in bounds)


def _inward(bound: int | float, sign: int, integer: bool) -> int | float:
    """The nearest double that is at least (`sign` 1) or at most (−1) this bound; of integers, an integer
    between ±MOST."""
    if integer:
        bound = math.ceil(bound) if sign > 0 else math.floor(bound)
        bound = max(bound, -MOST) if sign > 0 else min(bound, MOST)
    if isinstance(bound, float):
        return bound
    try:
        near = float(bound)
    except OverflowError:
        near = math.copysign(1.7976931348623157e308, bound)
    if (near - bound if abs(bound) <= 2**53 else int(near) - bound) * sign < 0:
        near = math.nextafter(near, math.inf * sign)
    return int(near) if abs(near) < 2**64 else near


def exact(value: Any) -> bool:
    """Whether llguidance writes this value of JSON as what it is. It reads numbers as doubles, which is exact
    for 2⁵³ times a power of ten that is a double, and writes whole ones of 63 bits in full."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if isinstance(value, int):
        return abs(value) <= MOST and int(float(value)) == value
    _, digits, power = Decimal(repr(value)).normalize().as_tuple()
    return int("".join(map(str, digits))) <= 2**53 and isinstance(power, int) and abs(power) <= 22


def within(value: Any) -> list[Any]:
    """The value and all values in it."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        found.append(item)
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
    return found


def constants(schema: dict[str, Any]) -> list[Any]:
    """The values that a schema lists, of `const` or `enum`."""
    listed = schema["enum"] if isinstance(schema.get("enum"), list) else []
    return [*([schema["const"]] if "const" in schema else []), *listed]


def takes(schema: dict[str, Any], value: Any) -> bool:
    """Whether a constant is of the schema's types and, if it is a number, within its bounds."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if kind is not None and not any(_is_of(value, each) for each in kinds):
        return False
    if not is_number(value):
        return True
    exactly, step = Fraction(str(value)), schema.get("multipleOf")
    low = not is_number(schema.get("minimum")) or value >= schema["minimum"]
    high = not is_number(schema.get("maximum")) or value <= schema["maximum"]
    above = not is_number(schema.get("exclusiveMinimum")) or value > schema["exclusiveMinimum"]
    below = not is_number(schema.get("exclusiveMaximum")) or value < schema["exclusiveMaximum"]
    return (
        low
        and high
        and above
        and below
        and (not is_number(step) or step == 0 or exactly % Fraction(str(step)) == 0)
    )


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or kind == "boolean":
        return isinstance(value, bool) and kind == "boolean"
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    kinds = {"number": int | float, "string": str, "array": list | tuple, "object": dict, "null": type(None)}
    return kind in kinds and isinstance(value, kinds[kind])
