"""Prepares a JSON Schema for llguidance: rewrites what it would get wrong, refuses what no grammar keeps.

A text that fits the rewritten schema fits the given one: each step narrows the schema or keeps its meaning.
`loosen` drops and lists keywords that cannot be kept; the caller validates the text afterwards.
"""

from __future__ import annotations

import contextlib
import urllib.parse
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.prepared_schema import (
    PreparedSchema,
    any_subschema,
    has_control_characters,
    has_other_names,
)
from newleaf.generate.constraints.schema_keywords import COMPOSED, KEYWORDS, SchemaRewrite, min_properties
from newleaf.generate.constraints.schema_numbers import exact, inward_bounds, nested_values, normalized_bounds
from newleaf.generate.constraints.schema_pattern import without_nul
from newleaf.generate.constraints.schema_to_lark import NoRuleError
from newleaf.generate.constraints.subschemas import is_rounded

NAMED_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
LISTED_SUBSCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
SINGLE_SUBSCHEMAS = ("items", "additionalProperties", "additionalItems")
OBJECT_KEYWORDS = (
    "properties",
    "required",
    "additionalProperties",
    "patternProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
)
PASSES = 10  # to find schemas that others extend; beyond, no object is closed


def prepare_schema(schema: Any, loosen: bool = False) -> PreparedSchema:
    """A schema that llguidance reads correctly; `schema` keeps the limits of schema_limits.py.

    Raises InputError with keyword and JSON pointer for what cannot be kept; `loosen` drops it instead.
    """
    for bounds, constants in ((True, True), (False, True), (False, False)):
        found, work = _prepared(schema, loosen, bounds, constants)
        prepared = PreparedSchema(
            found, tuple(work.dropped), (bounds or constants) and any_subschema(found, is_rounded)
        )
        with contextlib.suppress(NoRuleError):
            prepared.rules("start")
            break
    if (
        isinstance(found, dict)
        and any_subschema(found, has_other_names)
        and any_subschema(found, has_control_characters)
    ):
        what = "constants and names with control characters (other than \\b \\f \\n \\r \\t)"
        raise InputError(
            f"json_schema: {what} cannot be kept beside objects with names of their own and others"
        )
    return prepared


def _prepared(schema: Any, loosen: bool, bounds: bool, constants: bool) -> tuple[Any, SchemaRewrite]:
    work = SchemaRewrite(loosen, bounds, constants)
    found = _schema(schema, "#", work, closes=True)
    for _ in range(PASSES):
        if work.extended <= work.open:
            break
        work = SchemaRewrite(loosen, bounds, constants, open=frozenset(work.extended | work.open))
        found = _schema(schema, "#", work, closes=True)
    else:
        found = _schema(schema, "#", work := SchemaRewrite(loosen, bounds, constants), closes=False)
    if isinstance(found, dict):
        found.pop("x-guidance", None)
    return found, work


def _schema(schema: Any, place: str, work: SchemaRewrite, closes: bool) -> Any:
    """The rewritten schema. `closes`: an object without additionalProperties allows no other names."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    closes = closes and place not in work.open
    if isinstance(found.get("$ref"), str) and (not closes or _has_object_keywords(found, "$ref")):
        work.extended.add(urllib.parse.unquote(found["$ref"]))
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
    min_properties(found, place, work)
    for name in ("const", "enum"):
        if name in found and not work.constants:
            _constants(found, name, f"{place}/{name}", work)
    for name in NAMED_SUBSCHEMAS:
        if isinstance(found.get(name), dict):
            children = found[name].items()
            found[name] = {
                key: _schema(child, f"{place}/{name}/{_step(key)}", work, True) for key, child in children
            }
    for name in LISTED_SUBSCHEMAS:
        if isinstance(found.get(name), list):
            alone = name in ("prefixItems", "items") or (
                name in ("anyOf", "oneOf") and inner and not _has_object_keywords(found, name)
            )
            found[name] = [
                _schema(child, f"{place}/{name}/{number}", work, alone)
                for number, child in enumerate(found[name])
            ]
    for name in SINGLE_SUBSCHEMAS:
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


def _numbers(found: dict[str, Any], work: SchemaRewrite) -> None:
    """Bounds that are doubles within the given ones; or the given ones, which then become Lark rules."""
    plain = normalized_bounds(found)
    found.clear()
    found.update(plain if work.bounds else inward_bounds(plain))


def _constants(found: dict[str, Any], name: str, place: str, work: SchemaRewrite) -> None:
    """Refuse or drop constants that llguidance would round, where they do not become Lark rules."""
    values = [found[name]] if name == "const" else found[name]
    for number, value in enumerate(values if isinstance(values, list) else []):
        for each in nested_values(value):
            if not exact(each):
                where = place if name == "const" else f"{place}/{number}"
                what = f"{each:,}" if isinstance(each, int) and abs(each) < 10**30 else "this number"
                work.refuse(
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


def _has_object_keywords(schema: dict[str, Any], without: str) -> bool:
    """Whether a schema has keywords of objects beside one keyword."""
    return any(word in schema and word != without for word in OBJECT_KEYWORDS)


def _step(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
