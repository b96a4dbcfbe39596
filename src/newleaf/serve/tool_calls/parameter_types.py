"""Parameter values that models write as bare text: strings as they are, others as JSON, by schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from newleaf.serve.tool_calls.tool_call import parse_json

JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "array": list,
    "object": dict,
}
PYTHON_LITERALS = {"True": True, "False": False, "None": None}  # which some models write
MAX_REFERENCES = 50  # and alternatives that are followed


def value_json(schema: Any, root: Any, text: str) -> str:
    """JSON of a value written as bare text, for a parameter with this schema.

    `root` has the definitions that it refers to.
    """
    kinds = schema_types(schema, root)
    value = PYTHON_LITERALS[text.strip()] if text.strip() in PYTHON_LITERALS else parse_json(text)
    given = value is not None or text.strip() in ("null", "None")
    if given and not isinstance(value, str) and any(_is(value, kind) for kind in kinds or JSON_TYPES):
        return json.dumps(value, ensure_ascii=False)
    if given and isinstance(value, str) and kinds and "string" not in kinds:
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def schema_types(schema: Any, root: Any) -> set[str]:
    """The types that a schema allows; empty where it does not say."""
    found: set[str] = set()
    waiting, left = [schema], MAX_REFERENCES
    while waiting and left:
        one, left = waiting.pop(), left - 1
        if not isinstance(one, Mapping):
            continue
        kind = one.get("type")
        if isinstance(kind, str | list):
            found |= set(kind if isinstance(kind, list) else [kind])
            continue
        listed = one["enum"] if isinstance(one.get("enum"), list) else []
        for value in [*([one["const"]] if "const" in one else []), *listed]:
            found.add(
                "string" if isinstance(value, str) else next(name for name in JSON_TYPES if _is(value, name))
            )
        for keyword in ("anyOf", "oneOf", "allOf"):
            waiting += one[keyword] if isinstance(one.get(keyword), list) else []
        if isinstance(reference := one.get("$ref"), str):
            waiting.append(resolve_reference(root, reference))
    return found


def resolve_reference(root: Any, reference: str) -> Any:
    """What a `$ref` refers to; None if nothing."""
    head, *steps = reference.split("/")
    found = root if head == "#" else None
    for step in steps:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return kind in JSON_TYPES and isinstance(value, JSON_TYPES[kind])
