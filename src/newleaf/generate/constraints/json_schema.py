"""A JSON Schema as llguidance gets it right: rewritten where it would not, and named by keyword and place
where it cannot be kept.

What is written by the rewritten schema fits the given one: each step here narrows it or means the same. Where
`loosen` is asked for, keywords that cannot be kept are dropped, and listed for a check of what was written.
"""

from __future__ import annotations

import contextlib
import copy
import json
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.schema_numbers import exact, inward_bounds, is_number, plain_bounds, within
from newleaf.generate.constraints.schema_pattern import without_nul
from newleaf.generate.constraints.schema_rules import NotWrittenError, Rules
from newleaf.generate.constraints.subschemas import children, rounds

# between JSON's parts: bounded, since small models love to write nothing but spaces
SPACE = r"[ \t\r\n]{1,16}"
# in texts of objects with other names than those listed: each name has one spelling then
ESCAPES = '"\\bfnrt'
SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
SCHEMAS_IN_LIST = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
ONE_SCHEMA = ("items", "additionalProperties", "additionalItems")
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
OBJECTS = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
)
PASSES = 10  # to find the parts of descriptions; beyond, no object is closed


@dataclass(frozen=True)
class Prepared:
    """A schema for llguidance, and JSON pointers of the keywords that it no longer has. `written` says that
    it has numbers which are written out as rules of a Lark grammar, since llguidance's reader of schemas
    rounds them."""

    schema: Any
    loosened: tuple[str, ...] = ()
    written: bool = False

    def text(self) -> str:
        """JSON text, with llguidance's options."""
        if not isinstance(self.schema, dict):
            return json.dumps({} if self.schema else {"not": {}})
        return json.dumps({**self.schema, "x-guidance": self._options()})

    def rules(self, name: str) -> str:
        """Rules of a Lark grammar; the first is called `name`, as all others begin. Raises NotWrittenError
        for what has no rules."""
        return (
            Rules(self.schema, name, self._options()).text()
            if self.written
            else f"{name}: %json {self.text()}"
        )

    @property
    def open(self) -> bool:
        """Whether there may be objects with names of their own, which no grammar keeps from standing there
        twice."""
        waiting = [self.schema]
        while waiting:
            schema = waiting.pop()
            if schema is True or (isinstance(schema, dict) and _may_repeat(schema)):
                return True
            waiting += [child for _, child in children(schema)] if isinstance(schema, dict) else []
            waiting += _definitions(schema) if isinstance(schema, dict) else []
        return False

    def _options(self) -> dict[str, Any]:
        escapes = {"json_allowed_escapes": ESCAPES} if _any(self.schema, _has_other_names) else {}
        return {"whitespace_pattern": SPACE, **escapes}


@dataclass
class _Work:
    loosen: bool
    bounds: bool = False  # whether bounds that llguidance would move are to be written out
    constants: bool = False  # and constants that it would round
    dropped: list[str] = field(default_factory=list)
    # places whose objects are one part of a description, so that others may add names
    open: frozenset[str] = frozenset()
    parts: set[str] = field(default_factory=set)  # such places, as they are found

    def cannot(self, place: str, reason: str) -> None:
        """This keyword goes, or is refused. Raises InputError."""
        if not self.loosen:
            raise InputError(f"json_schema, at {place}: {reason}")
        self.dropped.append(place)


def prepare(schema: Any, loosen: bool = False) -> Prepared:
    """A schema (within the limits of generate/constraints/schema_limits.py) as llguidance gets it right.

    Raises InputError with keyword and JSON pointer for what it cannot keep, unless that is to `loosen` the
    schema.
    """
    for bounds, constants in ((True, True), (False, True), (False, False)):
        found, work = _prepared(schema, loosen, bounds, constants)
        prepared = Prepared(found, tuple(work.dropped), (bounds or constants) and _any(found, rounds))
        with contextlib.suppress(NotWrittenError):
            prepared.rules("start")
            break
    if isinstance(found, dict) and _any(found, _has_other_names) and _any(found, _has_control_characters):
        what = "constants and names with control characters (other than \\b \\f \\n \\r \\t)"
        raise InputError(
            f"json_schema: {what} cannot be kept beside objects with names of their own and others"
        )
    return prepared


def _prepared(schema: Any, loosen: bool, bounds: bool, constants: bool) -> tuple[Any, _Work]:
    work = _Work(loosen, bounds, constants)
    found = _schema(schema, "#", work, closes=True)
    for _ in range(PASSES):
        if work.parts <= work.open:
            break
        work = _Work(loosen, bounds, constants, open=frozenset(work.parts | work.open))
        found = _schema(schema, "#", work, closes=True)
    else:
        found = _schema(schema, "#", work := _Work(loosen, bounds, constants), closes=False)
    if isinstance(found, dict):
        found.pop("x-guidance", None)
    return found, work


def without(prepared: Prepared, place: list[str], keyword: str) -> Prepared:
    """The schema without this keyword of the subschema at `place`, steps of a JSON pointer; oneOf becomes
    anyOf."""
    schema = copy.deepcopy(prepared.schema)
    found: Any = schema
    for step in place:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    value = found.pop(keyword)
    if keyword == "oneOf" and "anyOf" not in found:
        found["anyOf"] = value
    return Prepared(schema, (*prepared.loosened, "/".join(["#", *place, keyword])), prepared.written)


def _schema(schema: Any, place: str, work: _Work, closes: bool) -> Any:
    """`closes`: whether an object that is silent about other names than its own has none."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    closes = closes and place not in work.open
    if isinstance(found.get("$ref"), str) and (not closes or _object_words(found, "$ref")):
        work.parts.add(urllib.parse.unquote(found["$ref"]))
    inner = closes
    closes = closes and not any(word in found for word in COMPOSED)
    for name, step in KEYWORDS.items():
        if name in found:
            step(found, name, f"{place}/{name}", work)
    _numbers(found, work)
    if isinstance(found.get("pattern"), str):
        found["pattern"] = without_nul(found["pattern"])
    if isinstance(found.get("patternProperties"), dict):
        found["patternProperties"] = {
            without_nul(key): child for key, child in found["patternProperties"].items()
        }
    _least_names(found, place, work)
    for name in ("const", "enum"):
        if name in found and not work.constants:
            _constants(found, name, f"{place}/{name}", work)
    for name in SCHEMAS_BY_NAME:
        if isinstance(found.get(name), dict):
            children = found[name].items()
            found[name] = {
                key: _schema(child, f"{place}/{name}/{_step(key)}", work, True) for key, child in children
            }
    for name in SCHEMAS_IN_LIST:
        if isinstance(found.get(name), list):
            alone = name in ("prefixItems", "items") or (
                name in ("anyOf", "oneOf") and inner and not _object_words(found, name)
            )
            found[name] = [
                _schema(child, f"{place}/{name}/{number}", work, alone)
                for number, child in enumerate(found[name])
            ]
    for name in ONE_SCHEMA:
        if isinstance(found.get(name), dict):
            found[name] = _schema(found[name], f"{place}/{name}", work, True)
    if (
        closes
        and isinstance(found.get("properties"), dict)
        and "additionalProperties" not in found
        and "patternProperties" not in found
    ):
        required = found.get("required")
        if not isinstance(required, list) or all(
            name in found["properties"] for name in required if isinstance(name, str)
        ):
            found["additionalProperties"] = False
    return found


# ---- keywords


def _refused(
    neutral: Callable[[Any], bool], more: tuple[str, ...] = ()
) -> Callable[[dict[str, Any], str, str, _Work], None]:
    """A keyword that cannot be kept; where its value is `neutral` it says nothing. `more` go with it."""

    def step(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
        value = found.pop(name)
        if not neutral(value):
            work.cannot(place, f"the keyword {name} cannot be kept by a grammar")
        for other in more:
            found.pop(other, None)

    return step


def _anything(value: Any) -> bool:
    return value is True or value == {}


def _contains(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    least, most = found.pop("minContains", 1), found.pop("maxContains", None)
    del found[name]
    if least != 0 or most is not None:
        work.cannot(place, f"the keyword {name} cannot be kept by a grammar")


def _names(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    """propertyNames: said in other words where an object has no names of its own."""
    value = found.pop(name)
    if _anything(value) or (
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
        work.cannot(
            place,
            "the keyword propertyNames cannot be kept by a grammar beside what else is said of this object",
        )


def _if(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    del found[name]
    if not all(_anything(found.pop(other, True)) for other in ("then", "else")):
        work.cannot(place, "the keyword if cannot be kept by a grammar")


def _without_if(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    del found[name]  # then and else say nothing without if


def _not(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    if found[name] is False:
        del found[name]
    elif not _anything(found[name]) or len(found) > 1:  # {"not": {}} is false
        del found[name]
        work.cannot(place, "the keyword not cannot be kept by a grammar")


def _format(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    value, kind = found[name], found.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if isinstance(value, str) and value in INTEGERS and "string" not in kinds:
        bits, signed = INTEGERS[value]
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        found["minimum"] = max(least, found["minimum"]) if is_number(found.get("minimum")) else least
        found["maximum"] = min(most, found["maximum"]) if is_number(found.get("maximum")) else most
        del found[name]
    elif (kind is not None and "string" not in kinds) or value == "password":
        del found[name]  # it is about texts, or about how they are shown
    elif value not in FORMATS:
        del found[name]
        work.cannot(place, f"the format {json.dumps(value)[:80]} is not known")


def _least_names(found: dict[str, Any], place: str, work: _Work) -> None:
    """minProperties counts a name once, a grammar each time it stands there."""
    least = found.get("minProperties")
    others = found.get("additionalProperties") is not False or found.get("patternProperties")
    if isinstance(least, int) and least > max(1, len(found.get("required") or ())) and others:
        del found["minProperties"]
        work.cannot(
            f"{place}/minProperties",
            "the keyword minProperties cannot be kept where other names than those listed may stand",
        )


KEYWORDS: dict[str, Callable[[dict[str, Any], str, str, _Work], None]] = {
    "uniqueItems": _refused(lambda value: value is False),
    "contains": _contains,
    "minContains": _without_if,
    "maxContains": _without_if,
    "if": _if,
    "then": _without_if,
    "else": _without_if,
    "not": _not,
    "dependentRequired": _refused(
        lambda value: value == {} or (isinstance(value, dict) and not any(value.values()))
    ),
    "dependentSchemas": _refused(
        lambda value: isinstance(value, dict) and all(map(_anything, value.values()))
    ),
    "dependencies": _refused(lambda value: value == {}),
    "unevaluatedProperties": _refused(_anything),
    "unevaluatedItems": _refused(_anything),
    "$dynamicRef": _refused(lambda value: False),
    "$recursiveRef": _refused(lambda value: False),
    "propertyNames": _names,
    "format": _format,
    "$schema": _without_if,
}


# ---- numbers


def _numbers(found: dict[str, Any], work: _Work) -> None:
    """Bounds as llguidance has them, or, where it would move them, as they are: then they are written out."""
    plain = plain_bounds(found)
    found.clear()
    found.update(plain if work.bounds else inward_bounds(plain))


def _constants(found: dict[str, Any], name: str, place: str, work: _Work) -> None:
    """Numbers that are not to be written out must be doubles that are written as llguidance writes them."""
    values = [found[name]] if name == "const" else found[name]
    for number, value in enumerate(values if isinstance(values, list) else []):
        for each in within(value):
            if not exact(each):
                where = place if name == "const" else f"{place}/{number}"
                what = f"{each:,}" if isinstance(each, int) and abs(each) < 10**30 else "this number"
                work.cannot(
                    where,
                    f"{what} has more digits than a double, and cannot be kept beside what else is said here",
                )
                del found[name]
                if (
                    isinstance(value, int)
                    and "type" not in found
                    and all(isinstance(other, int) for other in values)
                ):
                    found["type"] = "integer"
                return


# ---- looking


def _object_words(schema: dict[str, Any], without: str) -> bool:
    """Whether a schema says something of objects beside one keyword."""
    return any(word in schema and word != without for word in OBJECTS)


def _has_other_names(schema: dict[str, Any]) -> bool:
    """Whether objects may have names beside those listed, which could be these in another spelling."""
    named = "properties" in schema or "patternProperties" in schema or "required" in schema
    return named and (schema.get("additionalProperties") is not False or "patternProperties" in schema)


def _may_repeat(schema: dict[str, Any]) -> bool:
    """Whether an object with names that are not listed may fit, beside what its parts say."""
    if any(word in schema for word in ("const", "enum", *COMPOSED)):
        return False
    kind = schema.get("type", ["object", "array"])
    kinds = kind if isinstance(kind, list) else [kind]
    names = schema.get("additionalProperties") is not False or bool(schema.get("patternProperties"))
    return ("object" in kinds and names) or ("array" in kinds and schema.get("items", True) is True)


def _definitions(schema: dict[str, Any]) -> list[Any]:
    return [
        each
        for word in ("$defs", "definitions")
        if isinstance(schema.get(word), dict)
        for each in schema[word].values()
    ]


def _has_control_characters(schema: dict[str, Any]) -> bool:
    """Whether a constant or a name needs an escape that is not among ESCAPES."""
    names = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
    texts = [*names, *within(schema.get("const")), *within(schema.get("enum"))]
    return any(
        character < " " and character not in "\b\f\n\r\t"
        for each in texts
        if isinstance(each, str)
        for character in each
    )


def _any(value: Any, test: Callable[[dict[str, Any]], bool]) -> bool:
    return any(isinstance(each, dict) and test(each) for each in within(value))


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
