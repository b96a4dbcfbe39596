"""A JSON Schema as rules of a Lark grammar, down to numbers that llguidance's own reader of schemas would
round to doubles.

Only the way to such numbers is written out: objects, arrays, unions and references. All else is left to that
reader (`%json`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from newleaf.generate.constraints.integer_range import integer_range
from newleaf.generate.constraints.schema_limits import CHARACTERS, DEPTH
from newleaf.generate.constraints.schema_numbers import (
    exact,
    has_exact_bounds,
    inward_bounds,
    is_number,
    takes,
    within,
)
from newleaf.generate.constraints.subschemas import children, disjoint, needing, references, rounds

KINDS = ("null", "boolean", "number", "string", "array", "object")
SILENT = {
    "title",
    "description",
    "default",
    "examples",
    "$defs",
    "definitions",
    "$comment",
    "deprecated",
    "readOnly",
    "writeOnly",
}
SILENT |= {"x-guidance", "$schema", "$id", "example"}
OF_NUMBERS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
OF_ARRAYS = {"items", "prefixItems", "minItems", "maxItems"}
OF_OBJECTS = {"properties", "required", "additionalProperties", "minProperties"}
OTHERS = {
    "pattern",
    "minLength",
    "maxLength",
    "format",
    "additionalItems",
    "patternProperties",
    "maxProperties",
}
BRANCHES = ("anyOf", "oneOf")
CHARACTER = r'[^"\\\x00-\x1F\x7F]|\\["\\bfnrt]'  # of other names: each has one spelling


class NotWrittenError(Exception):
    """The keyword at this place cannot be written out."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class Rules:
    """Writes the rules of one schema; their names begin with `name`. `options` are llguidance's, of each part
    that is left to it."""

    def __init__(self, root: dict[str, Any], name: str, options: dict[str, Any]) -> None:
        self._root, self._name, self._options = root, name, options
        self._rules: list[str] = []
        self._referred: dict[str, str] = {}  # a reference → its rule
        self._known: dict[str, str] = {}  # a rule's text → its name
        self._needing = needing(root, self._target)
        self._depth = self._length = 0
        self._count = 0
        self._space = f"{name}_space?"
        self._comma = f'{self._space} "," {self._space}'
        self._colon = f'{self._space} ":" {self._space}'

    def text(self) -> str:
        """All rules; the first one, `name`, is of the whole value. Raises NotWrittenError."""
        whole = self._value(self._root, "#")
        space = f"{self._space[:-1]}: /{self._options['whitespace_pattern']}/"
        return "\n".join([f"{self._name}: {whole}", *self._rules, space])

    # ---- what is written out

    def _needs(self, schema: Any) -> bool:
        """Whether numbers have to be written out in it, or in what it refers to."""
        if not isinstance(schema, dict):
            return False
        return (
            id(schema) in self._needing
            or rounds(schema)
            or any(id(child) in self._needing for _, child in children(schema))
        )

    def _value(self, schema: Any, place: str) -> str:
        """An expression of the values that fit. Raises NotWrittenError, as the others do."""
        if not self._needs(schema):
            return self._left(schema, place)
        self._depth += 1
        if self._depth > DEPTH or self._length > CHARACTERS:
            raise NotWrittenError(place)
        found = self._written(schema, place)
        self._depth -= 1
        return found

    def _written(self, schema: Any, place: str) -> str:
        said = set(schema) - SILENT
        if "$ref" in said:
            self._alone("$ref", said, place)
            return self._reference(schema["$ref"], place)
        for word in BRANCHES:
            if word in said:
                self._alone(word, said, place)
                if word == "oneOf" and not disjoint(schema[word]):
                    raise NotWrittenError(f"{place}/{word}")
                branches = enumerate(schema[word])
                return self._union(
                    self._value(branch, f"{place}/{word}/{number}") for number, branch in branches
                )
        if "allOf" in said:
            self._alone("allOf", said, place)
            if len(schema["allOf"]) != 1:
                raise NotWrittenError(f"{place}/allOf")
            return self._value(schema["allOf"][0], f"{place}/allOf/0")
        for word in ("const", "enum"):
            if word in said:
                return self._constants(schema, word, place)
        return self._by_type(schema, said, place)

    def _alone(self, word: str, said: set[str], place: str) -> None:
        if said - {word}:
            raise NotWrittenError(f"{place}/{word}")

    def _reference(self, reference: Any, place: str) -> str:
        if reference not in self._referred:
            self._referred[reference] = self._new()
            expression = self._value(self._target(reference), str(reference))
            self._rules.append(f"{self._referred[reference]}: {expression}")
        return self._referred[reference]

    def _constants(self, schema: dict[str, Any], word: str, place: str) -> str:
        beside = set(schema) - SILENT - {word, "type"} - OF_NUMBERS
        values = [schema["const"]] if word == "const" else schema[word]
        if beside or (any(isinstance(each, dict | list) for each in values) and set(schema) & OF_NUMBERS):
            raise NotWrittenError(f"{place}/{word}")
        values = [each for each in values if takes(schema, each)]
        if not values:
            raise NotWrittenError(f"{place}/{word}")
        plain = [each for each in values if all(map(exact, within(each)))]
        ways = [self._json({"enum": plain})] if plain else []
        return self._union([*ways, *(self._constant(each) for each in values if each not in plain)])

    def _constant(self, value: Any) -> str:
        """A value with numbers that are written as Python does. There is one way to write each."""
        if isinstance(value, dict):
            pairs = [
                f"{_text(_json_text(name))} {self._colon} {self._constant(each)}"
                for name, each in value.items()
            ]
            return self._group("{", f" {self._comma} ".join(pairs), "}")
        if isinstance(value, list | tuple):
            return self._group("[", f" {self._comma} ".join(map(self._constant, value)), "]")
        return _text(_json_text(value))

    def _by_type(self, schema: dict[str, Any], said: set[str], place: str) -> str:
        """One alternative for each type of values."""
        unknown = said - {"type"} - OF_NUMBERS - OF_ARRAYS - OF_OBJECTS - OTHERS
        if unknown:
            raise NotWrittenError(f"{place}/{min(unknown)}")
        kind = schema.get("type", list(KINDS))
        kinds = kind if isinstance(kind, list) else [kind]
        ways: dict[str, Callable[[dict[str, Any], str], str]] = {"array": self._array, "object": self._object}
        written = {"number", "integer"} & set(kinds) if not has_exact_bounds(schema) else set()
        written |= {name for name in ways if name in kinds and self._needs_of(schema, name)}
        found = [
            ways.get(each, self._number)({**schema, "type": each}, place) for each in kinds if each in written
        ]
        if left := [each for each in kinds if each not in written]:
            found.append(self._left({**schema, "type": left}, place))
        return self._union(found)

    def _needs_of(self, schema: dict[str, Any], kind: str) -> bool:
        words = OF_ARRAYS | {"additionalItems"} if kind == "array" else OF_OBJECTS | {"patternProperties"}
        return any(self._needs(child) for (word, *_), child in children(schema) if word in words)

    # ---- kinds of values

    def _number(self, schema: dict[str, Any], place: str) -> str:
        """Integers in full, and other numbers up to 2⁵³: beyond, readers make integers of them."""
        if "multipleOf" in schema:
            raise NotWrittenError(f"{place}/multipleOf")
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
        ways = []
        if (expression := integer_range(low, high)) is not None:
            ways.append(self._rule(f"/{expression}/", terminal=True))
        if schema["type"] == "number" and (inner := _decimals(schema)) is not None:
            ways.append(self._json(inner))
        if not ways:
            raise NotWrittenError(place)
        return self._union(ways)

    def _array(self, schema: dict[str, Any], place: str) -> str:
        if "additionalItems" in schema or isinstance(schema.get("items"), list):
            raise NotWrittenError(f"{place}/items")
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
            rest = f"({self._comma} {item}){{{low},{high}}}"
        elif least > len(first) + (item is not None):
            raise NotWrittenError(f"{place}/minItems")
        for number in range(len(first) - 1, 0, -1):
            part = f"{self._comma} {first[number]} {rest}"
            rest = self._rule(part if number < least else f"({part})?")
        head = first[0] if first else item
        if head is None:
            return self._group("[", "", "]")
        return self._group("[", f"{head} {rest}" if least > 0 else f"({head} {rest})?", "]")

    def _object(self, schema: dict[str, Any], place: str) -> str:
        if schema.get("patternProperties") or "maxProperties" in schema:
            raise NotWrittenError(
                f"{place}/{'patternProperties' if schema.get('patternProperties') else 'maxProperties'}"
            )
        properties, required = schema.get("properties", {}), schema.get("required", [])
        more = schema.get("additionalProperties", True)
        if schema.get("minProperties", 0) > max(len(required), 0):
            raise NotWrittenError(f"{place}/minProperties")
        items: list[tuple[str, bool]] = []
        for name in [*properties, *(name for name in required if name not in properties)]:
            child = properties.get(name, more)
            if child is False and name in required:
                raise NotWrittenError(f"{place}/properties")
            if child is not False:
                where = (
                    f"{place}/properties/{name}" if name in properties else f"{place}/additionalProperties"
                )
                value = self._value(child, where)
                items.append(
                    (self._rule(f"{_text(_json_text(name))} {self._colon} {value}"), name in required)
                )
        if more is not False:
            other = self._rule(_other_names([*properties, *required]), terminal=True)
            item = self._rule(f"{other} {self._colon} {self._value(more, f'{place}/additionalProperties')}")
            items.append((f"{item} ({self._comma} {item})*", False))
        return self._group("{", self._pairs(items), "}")

    def _pairs(self, items: Sequence[tuple[str, bool]]) -> str:
        """Pairs in their order, those that are not required may be absent. Rules grow with their number, not
        with its square."""
        after = alone = ""  # what follows a pair, with its comma; the rest where no pair has stood yet
        for pair, required in reversed(items):
            begun = f"{pair} {after}"
            alone = self._rule(begun if required else f"{begun} | {alone}" if alone else f"({begun})?")
            after = self._rule(
                f"{self._comma} {pair} {after}" if required else f"({self._comma} {pair})? {after}"
            )
        return alone

    # ---- rules

    def _left(self, schema: Any, place: str) -> str:
        """A part that llguidance reads itself, with what it refers to."""
        if not isinstance(schema, dict):
            return self._json({} if schema else {"not": {}})
        shared: dict[str, Any] = {}
        waiting = references(schema)
        while waiting:
            reference = waiting.pop()
            head, word, *steps = reference.split("/")
            if head != "#" or word not in ("$defs", "definitions") or not steps:
                raise NotWrittenError(f"{place}/$ref")
            name = steps[0].replace("~1", "/").replace("~0", "~")
            if name not in shared.setdefault(word, {}):
                shared[word][name] = self._root.get(word, {}).get(name, {})
                waiting += references(shared[word][name])
        return self._json(
            {
                **{name: each for name, each in schema.items() if name not in ("$defs", "definitions")},
                **shared,
            }
        )

    def _target(self, reference: str) -> Any:
        found: Any = self._root
        head, *steps = reference.split("/")
        try:
            for step in steps:
                name = step.replace("~1", "/").replace("~0", "~")
                found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError):
            return None
        return found if head == "#" else None

    def _json(self, schema: dict[str, Any]) -> str:
        return self._rule(f"%json {json.dumps({**schema, 'x-guidance': self._options})}")

    def _union(self, ways: Any) -> str:
        found = list(ways)
        return found[0] if len(found) == 1 else self._rule(" | ".join(found))

    def _group(self, begin: str, inner: str, end: str) -> str:
        return self._rule(f"{_text(begin)} {self._space} {inner} {self._space if inner else ''} {_text(end)}")

    def _rule(self, expression: str, terminal: bool = False) -> str:
        """The name of a rule that says this."""
        if expression not in self._known:
            name = self._new()
            self._known[expression] = name.upper() if terminal else name
            self._rules.append(f"{self._known[expression]}: {expression}")
            self._length += len(expression)
        return self._known[expression]

    def _new(self) -> str:
        self._count += 1
        return f"{self._name}_{self._count}"


def _decimals(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Numbers within the bounds and ±2⁵³; None where there are none."""
    found = {name: value for name, value in inward_bounds(schema).items() if name in OF_NUMBERS}
    for names, sign in ((("minimum", "exclusiveMinimum"), 1), (("maximum", "exclusiveMaximum"), -1)):
        given = [found[name] * sign for name in names if is_number(found.get(name))]
        if max(given, default=-math.inf) < -(2**53):
            found = {name: value for name, value in found.items() if name not in names} | {
                names[0]: -sign * 2**53
            }
        elif max(given, default=-math.inf) >= 2**53:
            return None
    low = max(found.get("minimum", -math.inf), found.get("exclusiveMinimum", -math.inf))
    high = min(found.get("maximum", math.inf), found.get("exclusiveMaximum", math.inf))
    return {"type": "number", **found} if low < high else None


def _text(written: str) -> str:
    """A text as Lark quotes it."""
    return json.dumps(written)


def _json_text(value: Any) -> str:
    """JSON as llguidance writes it: characters stand for themselves where they can."""
    written = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if any("\ud800" <= character <= "\udfff" for character in written) else written


def _other_names(names: Sequence[str]) -> str:
    """A terminal for names of an object that are none of these."""
    taken = "|".join(
        "".join(c if c.isalnum() else f"\\x{{{ord(c):X}}}" for c in _json_text(name)[1:-1]) for name in names
    )
    return f'/"({CHARACTER})*"/' + (f' & ~/"({taken})"/' if names else "")
