"""Numbers of a JSON Schema: which ones llguidance keeps as doubles, and bounds rounded inwards."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_BOUND = 2**63 - 1024  # the largest bound of integers: a double below 2⁶³
BOUNDS = (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1))
NUMBER_KEYWORDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_integer(schema: dict[str, Any]) -> bool:
    """Whether the only numbers that the schema allows are integers."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return "integer" in kinds and "number" not in kinds


def normalized_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with bounds as in the current draft; those of integers are inclusive."""
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
    """The schema with bounds that are doubles, rounded inwards."""
    found, integer = dict(schema), is_integer(schema)
    for *names, sign in BOUNDS:
        for each in names:
            if is_number(found.get(each)):
                found[each] = _inward(found[each], sign, integer)
    return found


def has_exact_bounds(schema: dict[str, Any]) -> bool:
    """Whether llguidance keeps all bounds exactly."""
    moved, bounds = (
        inward_bounds(schema),
        [each for *names, _ in BOUNDS for each in names if is_number(schema.get(each))],
    )
    return all(moved[each] == schema[each] and abs(schema[each]) <= MAX_BOUND for each in bounds)


def decimal_bounds(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Numbers within the bounds and ±2⁵³; None where there are none."""
    found = {name: value for name, value in inward_bounds(schema).items() if name in NUMBER_KEYWORDS}
    for names, sign in ((("minimum", "exclusiveMinimum"), 1), (("maximum", "exclusiveMaximum"), -1)):
        given = [found[name] * sign for name in names if is_number(found.get(name))]
        if max(given, default=-math.inf) < -(2**53):
            found = {name: value for name, value in found.items() if name not in names} | {
                names[0]: -sign * 2**53
            }
        elif max(given, default=-math.inf) >= 2**53:
            return None
    low = max(found.get("minimum", -math.inf), found.get("exclusiveMinimum", -math.inf))
    high = min(found.get("maximum", math.inf), found.get("exclusiveMaximum", math.inf))
    return {"type": "number", **found} if low < high else None


def _inward(bound: int | float, sign: int, integer: bool) -> int | float:
    """The nearest double at least (`sign` 1) or at most (−1) this bound; an integer's within ±MAX_BOUND."""
    if integer:
        bound = math.ceil(bound) if sign > 0 else math.floor(bound)
        bound = max(bound, -MAX_BOUND) if sign > 0 else min(bound, MAX_BOUND)
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
    """Whether llguidance keeps a JSON value exactly.

    It reads numbers as doubles. These are exact up to 2⁵³ times a power of ten that is itself a double.
    Integers of 63 bits are written in full.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if isinstance(value, int):
        return abs(value) <= MAX_BOUND and int(float(value)) == value
    _, digits, power = Decimal(repr(value)).normalize().as_tuple()
    return int("".join(map(str, digits))) <= 2**53 and isinstance(power, int) and abs(power) <= 22


def nested_values(value: Any) -> list[Any]:
    """The value and all values nested in it."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        found.append(item)
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
    return found


def constants(schema: dict[str, Any]) -> list[Any]:
    """The values of `const` and `enum`."""
    listed = schema["enum"] if isinstance(schema.get("enum"), list) else []
    return [*([schema["const"]] if "const" in schema else []), *listed]


def allows(schema: dict[str, Any], value: Any) -> bool:
    """Whether a constant has one of the schema's types and, if it is a number, keeps its bounds."""
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
