"""A JSON Schema that llguidance reads correctly, as JSON text or as Lark rules."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from newleaf.generate.constraints.schema_keywords import COMPOSED
from newleaf.generate.constraints.schema_numbers import nested_values
from newleaf.generate.constraints.schema_to_lark import Rules
from newleaf.generate.constraints.subschemas import children, unescape

# White space between JSON's tokens is bounded, since small models tend to repeat it without end.
SPACE = r"[ \t\r\n]{1,16}"
# The only escapes beside names that are not listed, so that each name has one spelling.
ESCAPES = '"\\bfnrt'


@dataclass(frozen=True)
class PreparedSchema:
    """A schema for llguidance. `loosened` has JSON pointers of the keywords that were dropped.

    `uses_lark` says that it becomes rules of a Lark grammar, since llguidance would round its numbers.
    """

    schema: Any
    loosened: tuple[str, ...] = ()
    uses_lark: bool = False

    def text(self) -> str:
        """JSON text, with llguidance's options."""
        if not isinstance(self.schema, dict):
            return json.dumps({} if self.schema else {"not": {}})
        return json.dumps({**self.schema, "x-guidance": self._options()})

    def rules(self, name: str) -> str:
        """Rules of a Lark grammar; the first is called `name`, which is the prefix of all others.

        Raises NoRuleError for a schema that has none.
        """
        return (
            Rules(self.schema, name, self._options()).text()
            if self.uses_lark
            else f"{name}: %json {self.text()}"
        )

    @property
    def open(self) -> bool:
        """Whether objects may have names that are not listed, which a grammar cannot keep from repeating."""
        waiting = [self.schema]
        while waiting:
            schema = waiting.pop()
            if schema is True or (isinstance(schema, dict) and _may_repeat(schema)):
                return True
            waiting += [child for _, child in children(schema)] if isinstance(schema, dict) else []
            waiting += _definitions(schema) if isinstance(schema, dict) else []
        return False

    def _options(self) -> dict[str, Any]:
        escapes = {"json_allowed_escapes": ESCAPES} if any_subschema(self.schema, has_other_names) else {}
        return {"whitespace_pattern": SPACE, **escapes}


def without_keyword(prepared: PreparedSchema, place: list[str], keyword: str) -> PreparedSchema:
    """The schema without a keyword of the subschema at these steps of a JSON pointer; oneOf becomes anyOf."""
    schema = copy.deepcopy(prepared.schema)
    found: Any = schema
    for step in place:
        name = unescape(step)
        found = found[int(name)] if isinstance(found, list) else found[name]
    value = found.pop(keyword)
    if keyword == "oneOf" and "anyOf" not in found:
        found["anyOf"] = value
    return PreparedSchema(schema, (*prepared.loosened, "/".join(["#", *place, keyword])), prepared.uses_lark)


def has_other_names(schema: dict[str, Any]) -> bool:
    """Whether objects may have names that are not listed, which could spell a listed one differently."""
    named = "properties" in schema or "patternProperties" in schema or "required" in schema
    return named and (schema.get("additionalProperties") is not False or "patternProperties" in schema)


def has_control_characters(schema: dict[str, Any]) -> bool:
    """Whether a constant or a name needs an escape that is not among ESCAPES."""
    names = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
    texts = [*names, *nested_values(schema.get("const")), *nested_values(schema.get("enum"))]
    return any(
        character < " " and character not in "\b\f\n\r\t"
        for each in texts
        if isinstance(each, str)
        for character in each
    )


def any_subschema(value: Any, test: Callable[[dict[str, Any]], bool]) -> bool:
    return any(isinstance(each, dict) and test(each) for each in nested_values(value))


def _may_repeat(schema: dict[str, Any]) -> bool:
    """Whether the schema allows an object with names that are not listed, its subschemas aside."""
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
