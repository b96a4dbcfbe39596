"""A JSON Schema as rules of a Lark grammar, where llguidance would round its numbers to doubles.

Only the path to such numbers becomes rules: objects, arrays, unions and references. All other subschemas stay
with llguidance's own reader (`%json`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from newleaf.generate.constraints.integer_range import integer_range
from newleaf.generate.constraints.lark_rules import LarkRules, json_text, other_names, quote
from newleaf.generate.constraints.schema_limits import MAX_DEPTH, MAX_LENGTH
from newleaf.generate.constraints.schema_numbers import (
    NUMBER_KEYWORDS,
    allows,
    decimal_bounds,
    exact,
    has_exact_bounds,
    is_number,
    nested_values,
)
from newleaf.generate.constraints.subschemas import (
    children,
    disjoint,
    is_rounded,
    needs_rules,
    resolve,
    with_definitions,
)

KINDS = ("null", "boolean", "number", "string", "array", "object")
ANNOTATIONS = {
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
}
ANNOTATIONS |= {"$comment", "$defs", "definitions", "x-guidance", "$schema", "$id"}
ARRAY_KEYWORDS = {"items", "prefixItems", "minItems", "maxItems"}
OBJECT_KEYWORDS = {"properties", "required", "additionalProperties", "minProperties"}
OTHER_KEYWORDS = {"pattern", "minLength", "maxLength", "format", "additionalItems"}
OTHER_KEYWORDS |= {"patternProperties", "maxProperties"}
BRANCHES = ("anyOf", "oneOf")


class NoRuleError(Exception):
    """The keyword at this JSON pointer has no Lark rule."""


class Rules:
    """Makes the rules of one schema, under names that begin with `name`; `options` go to llguidance."""

    def __init__(self, root: dict[str, Any], name: str, options: dict[str, Any]) -> None:
        self._root, self._options = root, options
        self._lark = LarkRules(name, options)
        self._referred: dict[str, str] = {}  # a reference → its rule
        self._needing = needs_rules(root, lambda reference: resolve(root, reference))
        self._depth = 0

    def text(self) -> str:
        """All rules; the first one, `name`, matches the complete value. Raises NoRuleError."""
        return self._lark.text(self._value(self._root, "#"))

    # ---- subschemas

    def _needs(self, schema: Any) -> bool:
        """Whether the schema, or one that it refers to, has numbers that need rules."""
        if not isinstance(schema, dict):
            return False
        return (
            id(schema) in self._needing
            or is_rounded(schema)
            or any(id(child) in self._needing for _, child in children(schema))
        )

    def _value(self, schema: Any, place: str) -> str:
        """An expression that matches the valid values. Raises NoRuleError, as the others do."""
        if not self._needs(schema):
            return self._delegate(schema, place)
        self._depth += 1
        if self._depth > MAX_DEPTH or self._lark.length > MAX_LENGTH:
            raise NoRuleError(place)
        found = self._written(schema, place)
        self._depth -= 1
        return found

    def _written(self, schema: Any, place: str) -> str:
        said = set(schema) - ANNOTATIONS
        if "$ref" in said:
            self._refuse_others("$ref", said, place)
            return self._reference(schema["$ref"], place)
        for word in BRANCHES:
            if word in said:
                self._refuse_others(word, said, place)
                if word == "oneOf" and not disjoint(schema[word]):
                    raise NoRuleError(f"{place}/{word}")
                branches = enumerate(schema[word])
                return self._lark.union(
                    self._value(branch, f"{place}/{word}/{number}") for number, branch in branches
                )
        if "allOf" in said:
            self._refuse_others("allOf", said, place)
            if len(schema["allOf"]) != 1:
                raise NoRuleError(f"{place}/allOf")
            return self._value(schema["allOf"][0], f"{place}/allOf/0")
        for word in ("const", "enum"):
            if word in said:
                return self._constants(schema, word, place)
        return self._by_type(schema, said, place)

    def _refuse_others(self, word: str, said: set[str], place: str) -> None:
        if said - {word}:
            raise NoRuleError(f"{place}/{word}")

    def _reference(self, reference: Any, place: str) -> str:
        if reference not in self._referred:
            self._referred[reference] = self._lark.new_name()
            expression = self._value(resolve(self._root, reference), str(reference))
            self._lark.define(self._referred[reference], expression)
        return self._referred[reference]

    def _constants(self, schema: dict[str, Any], word: str, place: str) -> str:
        beside = set(schema) - ANNOTATIONS - {word, "type"} - NUMBER_KEYWORDS
        values = [schema["const"]] if word == "const" else schema[word]
        if beside or (
            any(isinstance(each, dict | list) for each in values) and set(schema) & NUMBER_KEYWORDS
        ):
            raise NoRuleError(f"{place}/{word}")
        values = [each for each in values if allows(schema, each)]
        if not values:
            raise NoRuleError(f"{place}/{word}")
        plain = [each for each in values if all(map(exact, nested_values(each)))]
        alternatives = [self._lark.json({"enum": plain})] if plain else []
        return self._lark.union(
            [*alternatives, *(self._constant(each) for each in values if each not in plain)]
        )

    def _constant(self, value: Any) -> str:
        """A value with its numbers as Python writes them: each has one spelling."""
        if isinstance(value, dict):
            pairs = [
                f"{quote(json_text(name))} {self._lark.colon} {self._constant(each)}"
                for name, each in value.items()
            ]
            return self._lark.group("{", f" {self._lark.comma} ".join(pairs), "}")
        if isinstance(value, list | tuple):
            return self._lark.group("[", f" {self._lark.comma} ".join(map(self._constant, value)), "]")
        return quote(json_text(value))

    def _by_type(self, schema: dict[str, Any], said: set[str], place: str) -> str:
        """One alternative for each type."""
        unknown = said - {"type"} - NUMBER_KEYWORDS - ARRAY_KEYWORDS - OBJECT_KEYWORDS - OTHER_KEYWORDS
        if unknown:
            raise NoRuleError(f"{place}/{min(unknown)}")
        kind = schema.get("type", list(KINDS))
        kinds = kind if isinstance(kind, list) else [kind]
        alternatives: dict[str, Callable[[dict[str, Any], str], str]] = {
            "array": self._array,
            "object": self._object,
        }
        written = {"number", "integer"} & set(kinds) if not has_exact_bounds(schema) else set()
        written |= {name for name in alternatives if name in kinds and self._needs_of(schema, name)}
        found = [
            alternatives.get(each, self._number)({**schema, "type": each}, place)
            for each in kinds
            if each in written
        ]
        if left := [each for each in kinds if each not in written]:
            found.append(self._delegate({**schema, "type": left}, place))
        return self._lark.union(found)

    def _needs_of(self, schema: dict[str, Any], kind: str) -> bool:
        words = (
            ARRAY_KEYWORDS | {"additionalItems"}
            if kind == "array"
            else OBJECT_KEYWORDS | {"patternProperties"}
        )
        return any(self._needs(child) for (word, *_), child in children(schema) if word in words)

    # ---- kinds of values

    def _number(self, schema: dict[str, Any], place: str) -> str:
        """Integers in full, and other numbers up to 2⁵³: beyond, JSON readers make integers of them."""
        if "multipleOf" in schema:
            raise NoRuleError(f"{place}/multipleOf")
        lows = [
            math.ceil(schema[name]) for name in ("minimum", "exclusiveMinimum") if is_number(schema.get(name))
        ]
        highs = [
            math.floor(schema[name])
            for name in ("maximum", "exclusiveMaximum")
            if is_number(schema.get(name))
        ]
        low, high = max(lows, default=None), min(highs, default=None)
        low = low + 1 if low is not None and low == schema.get("exclusiveMinimum") else low
        high = high - 1 if high is not None and high == schema.get("exclusiveMaximum") else high
        alternatives = []
        if (expression := integer_range(low, high)) is not None:
            alternatives.append(self._lark.rule(f"/{expression}/", terminal=True))
        if schema["type"] == "number" and (inner := decimal_bounds(schema)) is not None:
            alternatives.append(self._lark.json(inner))
        if not alternatives:
            raise NoRuleError(place)
        return self._lark.union(alternatives)

    def _array(self, schema: dict[str, Any], place: str) -> str:
        if "additionalItems" in schema or isinstance(schema.get("items"), list):
            raise NoRuleError(f"{place}/items")
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        first = [
            self._value(each, f"{place}/prefixItems/{n}")
            for n, each in enumerate(schema.get("prefixItems", []))
        ]
        first = first if most is None else first[:most]
        more = schema.get("items", True)
        item = (
            self._value(more, f"{place}/items")
            if more is not False and (most is None or most > len(first))
            else None
        )
        rest = ""  # what follows the first items, each part with its comma
        if item is not None and (first or most != 1):
            begun = 0 if first else 1
            low = max(least - (len(first) or 1), 0)
            high = "" if most is None else str(most - len(first) - begun)
            rest = f"({self._lark.comma} {item}){{{low},{high}}}"
        elif least > len(first) + (item is not None):
            raise NoRuleError(f"{place}/minItems")
        for number in range(len(first) - 1, 0, -1):
            part = f"{self._lark.comma} {first[number]} {rest}"
            rest = self._lark.rule(part if number < least else f"({part})?")
        head = first[0] if first else item
        if head is None:
            return self._lark.group("[", "", "]")
        return self._lark.group("[", f"{head} {rest}" if least > 0 else f"({head} {rest})?", "]")

    def _object(self, schema: dict[str, Any], place: str) -> str:
        if schema.get("patternProperties") or "maxProperties" in schema:
            raise NoRuleError(
                f"{place}/{'patternProperties' if schema.get('patternProperties') else 'maxProperties'}"
            )
        properties, required = schema.get("properties", {}), schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if schema.get("minProperties", 0) > max(len(required), 0):
            raise NoRuleError(f"{place}/minProperties")
        items: list[tuple[str, bool]] = []
        for name in [*properties, *(name for name in required if name not in properties)]:
            child = properties.get(name, more)
            if child is False and name in required:
                raise NoRuleError(f"{place}/properties")
            if child is not False:
                where = (
                    f"{place}/properties/{name}" if name in properties else f"{place}/additionalProperties"
                )
                value = self._value(child, where)
                items.append(
                    (
                        self._lark.rule(f"{quote(json_text(name))} {self._lark.colon} {value}"),
                        name in required,
                    )
                )
        if more is not False:
            other = self._lark.rule(other_names([*properties, *required]), terminal=True)
            item = self._lark.rule(
                f"{other} {self._lark.colon} {self._value(more, f'{place}/additionalProperties')}"
            )
            items.append((f"{item} ({self._lark.comma} {item})*", False))
        return self._lark.group("{", self._pairs(items), "}")

    def _pairs(self, items: Sequence[tuple[str, bool]]) -> str:
        """Pairs in order; those not required may be absent. The rules grow linearly with the pairs."""
        after = alone = ""  # what follows a pair, with its comma; the rest where no pair has stood yet
        for pair, required in reversed(items):
            begun = f"{pair} {after}"
            alone = self._lark.rule(begun if required else f"{begun} | {alone}" if alone else f"({begun})?")
            after = self._lark.rule(
                f"{self._lark.comma} {pair} {after}" if required else f"({self._lark.comma} {pair})? {after}"
            )
        return alone

    def _delegate(self, schema: Any, place: str) -> str:
        """A subschema for llguidance's own reader, with the definitions that it refers to."""
        if not isinstance(schema, dict):
            return self._lark.json({} if schema else {"not": {}})
        try:
            complete = with_definitions(schema, self._root)
        except LookupError:
            raise NoRuleError(f"{place}/$ref") from None
        return self._lark.json(complete)
