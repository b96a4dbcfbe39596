"""The grammar of calls with a tag for each parameter (serve/tool_calls/parameter_tag_parser.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from newleaf.generate.constraints.prepared_schema import PreparedSchema
from newleaf.serve.tool_calls.parameter_tag_parser import ParameterTagFormat
from newleaf.serve.tool_calls.parameter_types import resolve_reference, schema_types

DEFINITIONS = ("$defs", "definitions")
MAX_DEPTH = 5  # of nested alternatives
NAME = '/[^<>"\\s]{1,64}/'


def parameter_tag_rules(
    markup: ParameterTagFormat, functions: Sequence[dict[str, Any]], more: str, start: str
) -> list[str]:
    """Rules of calls of these functions, whose parameters are `PreparedSchema`.

    `start` and `more` come before the first call and before each further one.
    """
    rules = []
    for number, each in enumerate(functions):
        head = json.dumps(markup.head[0] + each["name"] + markup.head[1])
        rules.append(f"call_{number}: {head} parameters_{number} {json.dumps(markup.tail + markup.close)}")
        rules += _parameters(markup, f"parameters_{number}", each["parameters"])
    one = " | ".join(f"call_{number}" for number in range(len(functions)))
    return [f"calls: {start} call{more}", f"call: {one}", *rules]


def _parameters(markup: ParameterTagFormat, name: str, prepared: PreparedSchema) -> list[str]:
    """Parameters in the schema's order, or any where it lists none; they are checked afterwards."""
    root = prepared.schema if isinstance(prepared.schema, dict) else {}
    if len(alternatives := _object_schemas(root, root)) != 1:
        several = [
            _object_rules(markup, f"{name}_alternative_{number}", each, root, prepared)
            for number, each in enumerate(alternatives)
        ]
        union = " | ".join(f"{name}_alternative_{number}" for number in range(len(alternatives)))
        return [f"{name}: {union}", *(rule for rules in several for rule in rules)]
    return _object_rules(markup, name, alternatives[0], root, prepared)


def _object_schemas(schema: dict[str, Any], root: dict[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    """Alternative object schemas, one of which the parameters fit."""
    if "properties" in schema or depth > MAX_DEPTH:
        return [schema]
    inner = [resolve_reference(root, schema["$ref"])] if isinstance(schema.get("$ref"), str) else []
    inner += next(
        (schema[keyword] for keyword in ("anyOf", "oneOf") if isinstance(schema.get(keyword), list)), []
    )
    inner += schema["allOf"] if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1 else []
    objects = [each for each in inner if isinstance(each, dict) and each.get("type", "object") == "object"]
    return [found for each in objects for found in _object_schemas(each, root, depth + 1)] or [schema]


def _object_rules(
    markup: ParameterTagFormat,
    name: str,
    schema: dict[str, Any],
    root: dict[str, Any],
    prepared: PreparedSchema,
) -> list[str]:
    properties, required = schema.get("properties"), schema.get("required") or []
    if not isinstance(properties, dict) and schema.get("additionalProperties") is not False and not required:
        key = f"{json.dumps(markup.key[0])} {name.upper()}_KEY {json.dumps(markup.key[1] + markup.value[0])}"
        return [
            f"{name}: ({key} {name}_text)*",
            f"{name.upper()}_KEY: {NAME}",
            _text(markup, f"{name}_text", r"(?s:.*)"),
        ]
    properties = properties if isinstance(properties, dict) else {}
    others = schema.get("additionalProperties", True)
    children = {**properties, **{each: others for each in required if each not in properties}}
    rules, parts = [], []
    for number, (key, child) in enumerate(children.items()):
        if child is False:
            continue
        value = f"{name}_{number}"
        head = json.dumps(markup.key[0] + key + markup.key[1] + markup.value[0])
        parts.append(f"{head} {value}" if key in required else f"({head} {value})?")
        rules += _value(markup, value, child, root, prepared)
    return [f"{name}: {' '.join(parts)}", *rules]


def _value(
    markup: ParameterTagFormat, name: str, child: Any, root: dict[str, Any], prepared: PreparedSchema
) -> list[str]:
    """A value and its end tag: bare text where it may be a string, otherwise JSON."""
    kinds = schema_types(child, root)
    end = json.dumps(markup.value[1] + markup.end)
    if kinds and "string" not in kinds:
        shared = {keyword: root[keyword] for keyword in DEFINITIONS if keyword in root}
        inner = (
            PreparedSchema({**child, **shared}, (), prepared.uses_lark)
            if isinstance(child, dict)
            else PreparedSchema(child)
        )
        return [f"{name}: {name}_json {end}", *inner.rules(f"{name}_json").splitlines()]
    child = child if isinstance(child, dict) else {}
    listed = [child["const"]] if "const" in child else child.get("enum")
    if kinds == {"string"} and isinstance(listed, list) and all(isinstance(each, str) for each in listed):
        return [f"{name}: ({' | '.join(map(json.dumps, listed))}) {end}"]
    return [_text(markup, name, _expression(child) if kinds == {"string"} else r"(?s:.*)")]


def _expression(child: dict[str, Any]) -> str:
    if isinstance(pattern := child.get("pattern"), str):
        inner = re.sub(r"(?<!\\)/", r"\\/", pattern.removeprefix("^").removesuffix("$"))
        before, after = (
            "" if pattern.startswith("^") else "(?s:.*)",
            "" if pattern.endswith("$") else "(?s:.*)",
        )
        return f"{before}({inner}){after}"
    minimum, maximum = child.get("minLength", 0), child.get("maxLength", "")
    return f"(?s:.{{{minimum},{maximum}}})" if minimum or maximum != "" else "(?s:.*)"


def _text(markup: ParameterTagFormat, name: str, expression: str) -> str:
    """Text up to the first end tag of a value."""
    return f"{name}[suffix={json.dumps(markup.value[1] + markup.end)}]: /{expression}/"
