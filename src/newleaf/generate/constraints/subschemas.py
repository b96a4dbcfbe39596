"""The subschemas of a JSON Schema: a list, their references, and those whose numbers llguidance rounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from newleaf.generate.constraints.schema_numbers import constants, exact, has_exact_bounds, nested_values


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


def is_rounded(schema: Any) -> bool:
    """Whether llguidance would round a number of this schema, its subschemas aside."""
    if not isinstance(schema, dict):
        return False
    return not has_exact_bounds(schema) or any(
        not exact(each) for value in constants(schema) for each in nested_values(value)
    )


def needs_rules(root: Any, target: Callable[[str], Any]) -> set[int]:
    """The ids of subschemas that have such a number, or contain or refer to a schema that does."""
    above: dict[int, list[int]] = {}  # a subschema → those that contain it or refer to it
    found, waiting, seen = [], [root], {id(root)}
    while waiting:
        each = waiting.pop()
        found += [id(each)] if is_rounded(each) else []
        inner = [child for _, child in children(each)]
        inner += [target(each["$ref"])] if isinstance(each.get("$ref"), str) else []
        for child in inner:
            if isinstance(child, dict):
                above.setdefault(id(child), []).append(id(each))
                waiting += [child] if id(child) not in seen else []
                seen.add(id(child))
    needs_rules: set[int] = set()
    while found:
        if (one := found.pop()) not in needs_rules:
            needs_rules.add(one)
            found += above.get(one, [])
    return needs_rules


def references(schema: Any) -> list[str]:
    """All references in a schema."""
    found, waiting = [], [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found += [each["$ref"]] if isinstance(each.get("$ref"), str) else []
            waiting += [child for _, child in children(each)]
    return found


def resolve(root: Any, reference: str) -> Any:
    """The schema that a reference within `root` names; None where there is none."""
    found: Any = root
    head, *steps = reference.split("/")
    try:
        for step in steps:
            name = unescape(step)
            found = found[int(name)] if isinstance(found, list) else found[name]
    except (KeyError, IndexError, ValueError, TypeError):
        return None
    return found if head == "#" else None


def with_definitions(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema with those definitions of `root` that it refers to.

    Raises LookupError for other references.
    """
    shared: dict[str, Any] = {}
    waiting = references(schema)
    while waiting:
        head, word, *steps = waiting.pop().split("/")
        if head != "#" or word not in ("$defs", "definitions") or not steps:
            raise LookupError
        name = unescape(steps[0])
        if name not in shared.setdefault(word, {}):
            shared[word][name] = root.get(word, {}).get(name, {})
            waiting += references(shared[word][name])
    own = {name: each for name, each in schema.items() if name not in ("$defs", "definitions")}
    return {**own, **shared}


def unescape(step: str) -> str:
    """The name that a step of a JSON pointer stands for."""
    return step.replace("~1", "/").replace("~0", "~")


def disjoint(branches: Sequence[Any]) -> bool:
    """Whether no value fits two branches: they have different types, or list different values."""
    if all(isinstance(each, dict) and constants(each) for each in branches):
        listed = [{json.dumps(value, sort_keys=True) for value in constants(each)} for each in branches]
        return sum(map(len, listed)) == len(set().union(*listed))
    kinds = [each.get("type") if isinstance(each, dict) else None for each in branches]
    known = ["number" if kind == "integer" else kind for kind in kinds]
    return all(isinstance(kind, str) for kind in known) and len(set(known)) == len(known)
