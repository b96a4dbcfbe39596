"""Finds the subschema and the keyword for which llguidance refuses a JSON Schema."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from newleaf.generate.constraints.grammar_errors import TOO_LARGE
from newleaf.generate.constraints.grammar_host import COMPILE_SECONDS
from newleaf.generate.constraints.grammar_source import GrammarSource, schema_source
from newleaf.generate.constraints.prepared_schema import PreparedSchema

Compile = Callable[[GrammarSource], dict[str, Any] | None]  # the report; None where the process ended on it

MAX_SUBSCHEMAS = 200  # that are compiled to find the one that is wrong
# Keywords that llguidance keeps in some schemas and not in others.
DROPPABLE = ("pattern", "oneOf", "patternProperties", "minProperties", "maxProperties", "multipleOf", "allOf")


def locate_error(schema: Any, error: str, compile: Compile) -> tuple[list[str], str | None, str]:
    """The deepest subschema that fails by itself (steps of a JSON pointer), its keyword, and the error."""
    place, left, found, end = ["#"], MAX_SUBSCHEMAS, True, time.monotonic() + COMPILE_SECONDS
    shared = {
        key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema
    }
    while found and left > 0 and time.monotonic() < end:
        found = False
        for steps, child in _children(schema):
            left -= 1
            if (wrong := _error(child, shared, compile)) is not None:
                place, schema, error, found = [*place, *steps], child, wrong, True
                break
    # `type` comes last: without it a schema takes other values, so its removal proves little.
    words = (
        sorted(schema, key=lambda word: (word not in DROPPABLE, word == "type"))
        if isinstance(schema, dict)
        else []
    )
    for word in words[:MAX_SUBSCHEMAS]:
        if time.monotonic() > end:
            break
        if (
            word not in ("$defs", "definitions")
            and _error({k: v for k, v in schema.items() if k != word}, shared, compile) is None
        ):
            return place, word, error
    return place, None, error


def _error(schema: Any, shared: dict[str, Any], compile: Compile) -> str | None:
    """The error of a subschema by itself."""
    report = compile(schema_source(PreparedSchema(shared | schema if isinstance(schema, dict) else schema)))
    return TOO_LARGE if report is None else report["error"] or None


def _children(schema: Any) -> list[tuple[list[str], Any]]:
    """Subschemas, each with the next steps of its JSON pointer."""
    if not isinstance(schema, dict):
        return []
    named = [
        ([key, name.replace("~", "~0").replace("/", "~1")], child)
        for key in ("properties", "patternProperties", "$defs", "definitions")
        if isinstance(schema.get(key), dict)
        for name, child in schema[key].items()
    ]
    listed = [
        ([key, str(number)], child)
        for key in ("anyOf", "oneOf", "allOf", "prefixItems", "items")
        if isinstance(schema.get(key), list)
        for number, child in enumerate(schema[key])
    ]
    single = [
        ([key], schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    ]
    return named + listed + single
