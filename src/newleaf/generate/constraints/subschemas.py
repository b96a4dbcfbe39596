"""The subschemas of a JSON Schema: which there are, what they refer to, and in which of them numbers cannot
be left to llguidance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from newleaf.generate.constraints.schema_numbers import constants, exact, has_exact_bounds, within


def children(schema: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Subschemas with the steps of their JSON pointers."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for word in ("properties", "patternProperties"):
        if isinstance(schema.get(word), dict):
            found += [
                ((word, name.replace("~", "~0").replace("/", "~1")), child)
                for name, child in schema[word].items()
            ]
    for word in ("anyOf", "oneOf", "allOf", "prefixItems", "items"):
        if isinstance(schema.get(word), list):
            found += [((word, str(number)), child) for number, child in enumerate(schema[word])]
    for word in ("items", "additionalProperties", "additionalItems"):
        if isinstance(schema.get(word), dict):
            found.append(((word,), schema[word]))
    return found


def rounds(schema: Any) -> bool:
    """Whether llguidance would round a number of this schema itself, not of those within it."""
    if not isinstance(schema, dict):
        return False
    return not has_exact_bounds(schema) or any(
        not exact(each) for value in constants(schema) for each in within(value)
    )


def needing(root: Any, target: Callable[[str], Any]) -> set[int]:
    """The subschemas, by their ids, in which or in whose references numbers have to be written out."""
    above: dict[int, list[int]] = {}  # a subschema → those that hold it or refer to it
    found, waiting, seen = [], [root], {id(root)}
    while waiting:
        each = waiting.pop()
        found += [id(each)] if rounds(each) else []
        inner = [child for _, child in children(each)]
        inner += [target(each["$ref"])] if isinstance(each.get("$ref"), str) else []
        for child in inner:
            if isinstance(child, dict):
                above.setdefault(id(child), []).append(id(each))
                waiting += [child] if id(child) not in seen else []
                seen.add(id(child))
    needing: set[int] = set()
    while found:
        if (one := found.pop()) not in needing:
            needing.add(one)
            found += above.get(one, [])
    return needing


def references(schema: Any) -> list[str]:
    """All references in a schema."""
    found, waiting = [], [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found += [each["$ref"]] if isinstance(each.get("$ref"), str) else []
            waiting += [child for _, child in children(each)]
    return found


def disjoint(branches: Sequence[Any]) -> bool:
    """Whether no value fits two branches: they list values, all different, or have different types."""
    if all(isinstance(each, dict) and constants(each) for each in branches):
        listed = [{json.dumps(value, sort_keys=True) for value in constants(each)} for each in branches]
        return sum(map(len, listed)) == len(set().union(*listed))
    kinds = [each.get("type") if isinstance(each, dict) else None for each in branches]
    known = ["number" if kind == "integer" else kind for kind in kinds]
    return all(isinstance(kind, str) for kind in known) and len(set(known)) == len(known)
