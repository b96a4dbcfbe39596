"""Keywords of a JSON Schema that a grammar cannot keep: each is rewritten, dropped or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.schema_numbers import is_number

FORMATS = (
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
    "unknown",
)
INTEGERS = {f"{sign}int{bits}": (bits, not sign) for bits in (8, 16, 32, 64) for sign in ("", "u")}
COMPOSED = (
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "$dynamicRef",
    "$recursiveRef",
    "if",
    "not",
    "dependentSchemas",
)


@dataclass
class SchemaRewrite:
    """Options and findings of one pass over a schema."""

    loosen: bool
    bounds: bool = False  # keep bounds that llguidance would round: they become Lark rules
    constants: bool = False  # the same for constants
    dropped: list[str] = field(default_factory=list)
    open: frozenset[str] = frozenset()  # JSON pointers of schemas that others extend with more names
    extended: set[str] = field(default_factory=set)  # such pointers, as this pass finds them

    def refuse(self, place: str, reason: str) -> None:
        """Drop this keyword, or raise InputError."""
        if not self.loosen:
            raise InputError(f"json_schema, at {place}: {reason}")
        self.dropped.append(place)


KeywordStep = Callable[[dict[str, Any], str, str, SchemaRewrite], None]  # schema, keyword, pointer, rewrite


def _refused(neutral: Callable[[Any], bool], more: tuple[str, ...] = ()) -> KeywordStep:
    """A keyword that cannot be kept. A `neutral` value has no effect; the keywords `more` go with it."""

    def step(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
        value = found.pop(name)
        if not neutral(value):
            work.refuse(place, f"the keyword {name} cannot be kept by a grammar")
        for other in more:
            found.pop(other, None)

    return step


def _allows_all(value: Any) -> bool:
    return value is True or value == {}


def _contains(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    least, most = found.pop("minContains", 1), found.pop("maxContains", None)
    del found[name]
    if least != 0 or most is not None:
        work.refuse(place, f"the keyword {name} cannot be kept by a grammar")


def _names(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    """propertyNames: rewritten where the object lists no names of its own."""
    value = found.pop(name)
    if _allows_all(value) or (
        isinstance(value, dict)
        and set(value) <= {"type", "title", "description"}
        and value.get("type") == "string"
    ):
        return
    words = set(value) - {"type", "title", "description"} if isinstance(value, dict) else set()
    free = (
        "properties" not in found
        and "patternProperties" not in found
        and not any(word in found for word in COMPOSED)
    )
    values = found.get("additionalProperties", True)
    if free and words == {"pattern"} and isinstance(value["pattern"], str):
        found |= {"patternProperties": {value["pattern"]: values}, "additionalProperties": False}
    elif free and words in ({"enum"}, {"const"}):
        allowed = [each for each in value.get("enum", [value.get("const")]) if isinstance(each, str)]
        found |= {"properties": dict.fromkeys(allowed, values), "additionalProperties": False}
    else:
        work.refuse(
            place,
            "the keyword propertyNames cannot be kept by a grammar beside what else is said of this object",
        )


def _if(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    del found[name]
    if not all(_allows_all(found.pop(other, True)) for other in ("then", "else")):
        work.refuse(place, "the keyword if cannot be kept by a grammar")


def _remove(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    del found[name]  # it has no effect by itself


def _not(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    if found[name] is False:
        del found[name]
    elif not _allows_all(found[name]) or len(found) > 1:  # {"not": {}} is false
        del found[name]
        work.refuse(place, "the keyword not cannot be kept by a grammar")


def _format(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    value, kind = found[name], found.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if isinstance(value, str) and value in INTEGERS and "string" not in kinds:
        bits, signed = INTEGERS[value]
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        found["minimum"] = max(least, found["minimum"]) if is_number(found.get("minimum")) else least
        found["maximum"] = min(most, found["maximum"]) if is_number(found.get("maximum")) else most
        del found[name]
    elif (kind is not None and "string" not in kinds) or value == "password":
        del found[name]  # a format of strings, or of how they are displayed
    elif value not in FORMATS:
        del found[name]
        work.refuse(place, f"the format {json.dumps(value)[:80]} is not known")


def min_properties(found: dict[str, Any], place: str, work: SchemaRewrite) -> None:
    """minProperties counts a repeated name once; a grammar counts it each time."""
    least = found.get("minProperties")
    others = found.get("additionalProperties") is not False or found.get("patternProperties")
    if isinstance(least, int) and least > max(1, len(found.get("required") or ())) and others:
        del found["minProperties"]
        work.refuse(
            f"{place}/minProperties",
            "the keyword minProperties cannot be kept where other names than those listed may stand",
        )


KEYWORDS: dict[str, KeywordStep] = {
    "uniqueItems": _refused(lambda value: value is False),
    "contains": _contains,
    "minContains": _remove,
    "maxContains": _remove,
    "if": _if,
    "then": _remove,
    "else": _remove,
    "not": _not,
    "dependentRequired": _refused(
        lambda value: value == {} or (isinstance(value, dict) and not any(value.values()))
    ),
    "dependentSchemas": _refused(
        lambda value: isinstance(value, dict) and all(map(_allows_all, value.values()))
    ),
    "dependencies": _refused(lambda value: value == {}),
    "unevaluatedProperties": _refused(_allows_all),
    "unevaluatedItems": _refused(_allows_all),
    "$dynamicRef": _refused(lambda value: False),
    "$recursiveRef": _refused(lambda value: False),
    "propertyNames": _names,
    "format": _format,
    "$schema": _remove,
}
