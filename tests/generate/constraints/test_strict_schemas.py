"""What is written under a JSON Schema fits it to the letter, by the jsonschema package and a reader that
takes no name twice."""

from __future__ import annotations

import json
import random
import re
import socket
import string
from typing import Any

import jsonschema
import pytest

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.integer_range import integer_range
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.constraints.schema_limits import parse_schema
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

pytest.importorskip("llguidance")

S, I, N = {"type": "string"}, {"type": "integer"}, {"type": "null"}  # noqa: E741
TREE = {"type": "object", "properties": {"n": {"anyOf": [{"$ref": "#/$defs/n"}, N]}}, "required": ["n"]}
TWO = {"type": "object", "properties": {"x": I}, "required": ["x"]}


def text(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


def an_object(**more: Any) -> dict[str, Any]:
    return {"type": "object", **more}


KEPT: list[dict[str, Any]] = [
    # numbers
    {"enum": [2**53, -(2**53), 2**60, 1e15, 1.5, -0.25, 0.1, 1e-7, 123456.789]},
    {"type": "integer", "minimum": 9007199254740993, "maximum": 9007199254741999},
    {"type": "integer", "minimum": -(2**63), "maximum": -(2**63) + 5000},
    {"type": "integer", "minimum": 2**63 - 3000, "maximum": 2**64},
    {"type": ["integer", "null"], "minimum": -(2**63)},
    {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 9},
    {"type": "integer", "exclusiveMinimum": 5.5, "maximum": 7.2},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "number", "minimum": 9007199254740993, "maximum": 9007199254740999},
    {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 50},
    {"type": "integer", "format": "uint8"},
    # numbers that no double holds
    {"enum": [1234567890123456789]},
    {"const": -(2**63)},
    {"const": 10**30 + 1},
    {"const": 0.30000000000000004},
    {"enum": [1, "x", 2**53 + 1, 1.7976931348623157e308, None]},
    {"enum": [2**53 + 1, -3, 7], "type": "integer", "minimum": 5},
    {"const": {"a": [2**64 + 1, {"b\n": 5}], "c": {}, "d": []}},
    an_object(properties={"a": I, "b": {"enum": [2**70, 3]}, "c": {"const": 10**25}}, required=["b"]),
    an_object(properties={"a": {"const": 2**64 + 1}, "b": S}),
    an_object(properties={"a": {"const": 2**64 + 1}}, required=["b", "a"], additionalProperties=I),
    an_object(properties={"a": {"const": 2**64 + 1}, 'b"\\': I}, additionalProperties=True),
    an_object(additionalProperties={"const": 2**64 + 1}),
    {"type": "array", "items": {"enum": [2**60 + 1, 2**60 + 2]}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"const": 2**60 + 1}},
    {"type": "array", "prefixItems": [I, {"const": 2**60 + 1}, S], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [{"const": 2**60 + 1}], "items": S},
    {"anyOf": [{"const": 2**60 + 1}, an_object(properties={"a": {"const": 2**60 + 1}}, required=["a"]), N]},
    {"oneOf": [{"const": 2**60 + 1}, {"const": 2**60 + 2}]},
    {"$ref": "#/$defs/big", "$defs": {"big": {"enum": [2**60 + 1]}}},
    an_object(
        properties={"n": {"$ref": "#/$defs/a~1b"}, "t": {"$ref": "#/$defs/t"}},
        **{"$defs": {"a/b": {"const": 2**60 + 1}, "t": TWO}},
    ),
    {
        "$ref": "#/$defs/n",
        "$defs": {
            "n": an_object(properties={"v": {"const": 2**60 + 1}, "n": {"$ref": "#/$defs/n"}}, required=["v"])
        },
    },
    {"type": "integer", "minimum": 2**53 + 1, "maximum": 2**53 + 1},
    {"type": "integer", "minimum": 10**29, "maximum": 10**30},
    {"type": "integer", "exclusiveMaximum": -(2**63) - 1},
    {"type": ["string", "integer"], "minimum": 2**64 + 1},
    {"type": "number", "minimum": 2**53 + 1, "maximum": 2**53 + 1},
    {"minimum": 2**64 + 1},
    {"type": "number", "minimum": 1e20},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1e300},
    {"type": "integer", "minimum": -(10**120), "maximum": 10},
    an_object(properties={"id": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}, required=["id"]),
    # texts
    text("^[\x00-\x1f]$"),
    text("^[\x00-\x20]{2}$"),
    text('^[^"]*$', maxLength=3),
    text("^[^\\\\]$"),
    text('^[^"\\\\]$'),
    text("^[^a-z]$"),
    text("^\\d+$"),
    text("^\\s$"),
    text("^.$"),
    text('^["\\\\/]$'),
    text("b$"),
    text("a", maxLength=3),
    {"type": "string", "minLength": 2, "maxLength": 3},
    {"enum": ["a\x01é\u2028", "\\", '"', "/"]},
    # objects
    an_object(properties={"a": I}, additionalProperties=True),
    an_object(properties={"a": I, 'a"b\\': S, "\n": S}),
    an_object(maxProperties=1),
    an_object(patternProperties={"^a": I}),
    an_object(properties={"a": I}, required=["a", "b"]),
    an_object(propertyNames={"enum": ["x", "y"]}, additionalProperties=I),
    an_object(propertyNames={"pattern": "^[xy]$"}, additionalProperties=I),
    an_object(properties={"a": I, "b": S}, additionalProperties=N),
    {"const": {"a": [1, {"b": "\t"}]}},
    # arrays, unions, references
    {"type": "array", "items": I, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [I, S], "items": False, "minItems": 1},
    {"allOf": [{"properties": {"a": I}}, {"properties": {"b": S}, "required": ["b"]}], "type": "object"},
    {
        "allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": TWO, "b": {**TWO, "properties": {"y": I}, "required": ["y"]}},
    },
    {"oneOf": [an_object(properties={"k": {"const": each}}, required=["k"]) for each in "ab"]},
    {"$ref": "#/$defs/n", "$defs": {"n": TREE}},
    an_object(properties={"a": I}, anyOf=[{"required": ["a"]}, {"properties": {"b": S}, "required": ["b"]}]),
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"allOf": [{"enum": [1, 1234567890123456789]}, {"minimum": 2}]},
        "#/allOf/0/enum/1: 1,234,567,890,123,456,789",
    ),
    (an_object(patternProperties={"^a": {"const": {"c": 2**70}}}), r"#/patternProperties/\^a/const: "),
    ({"type": "array", "items": {"type": "array", "uniqueItems": True}}, "#/items/uniqueItems: "),
    (an_object(propertyNames={"maxLength": 3}), "#/propertyNames: "),
    ({"type": "string", "format": "binary"}, "#/format: "),
    ({"anyOf": [text("^(?=a)b")]}, "#/anyOf/0/pattern: .*look-around"),
    ({"if": S, "then": S}, "#/if: "),
    (an_object(dependentRequired={"a": ["b"]}), "#/dependentRequired: "),
    (an_object(dependentSchemas={"a": {"required": ["b"]}}), "#/dependentSchemas: "),
    ({"type": "array", "contains": I}, "#/contains: "),
    (an_object(unevaluatedProperties=False), "#/unevaluatedProperties: "),
    ({"type": "array", "unevaluatedItems": False}, "#/unevaluatedItems: "),
    ({"not": S}, "#/not: "),
    (an_object(minProperties=2), "#/minProperties: "),
    ({"oneOf": [S, {"type": "string", "maxLength": 3}]}, "#/oneOf: "),
    ({"$defs": {"a": {"$dynamicRef": "#b"}}, "$ref": "#/$defs/a"}, r"#/\$defs/a/\$dynamicRef: "),
]
TAKEN: list[tuple[dict[str, Any], list[str]]] = [
    (an_object(properties={"a": I, "b": S}), ["{}", '{"a": 1}', '{"a":-5, "b":"é\\n"}']),
    (an_object(additionalProperties=I), ['{"x": 1, "y": 2}']),
    (an_object(), ['{"x": [1, {"y": null}]}']),
    ({"type": "array", "items": {"type": "number"}}, ["[]", "[1, 2.5, -1e9]"]),
    (
        {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        ["0", "-9007199254740993", "9223372036854774783", str(2**63 - 1)],
    ),
    ({"enum": [1, 2**63, 0.30000000000000004]}, ["1", "9223372036854775808", "0.30000000000000004"]),
    ({"type": "integer", "maximum": 2**53 + 1}, ["9007199254740993", "-12345678901234567890123", "0", "-1"]),
    ({"type": "number", "maximum": 2**53 + 1}, ["9007199254740993", "-0.5", "9007199254740991.5"]),
    (
        an_object(properties={"a": {"const": 2**63}, "b": I, "c": S}),
        ["{}", '{"b": 1}', '{ "a" : 9223372036854775808 , "c":""}', '{"c":"é"}'],
    ),
    (
        an_object(properties={"a": {"const": 2**63}}, additionalProperties=I),
        ['{"b": 1}', '{"a": 9223372036854775808, "b": 1,"aa":2}'],
    ),
    (
        {"type": "array", "items": {"const": 2**63}},
        ["[]", "[9223372036854775808]", "[ 9223372036854775808,\n9223372036854775808 ]"],
    ),
    (text('^[^"]+$'), ['"abc"', '"\\n"']),
    ({"anyOf": [TWO, N]}, ["null", '{"x": 3}']),
    # Keywords that say nothing here.
    ({"type": "array", "items": I, "uniqueItems": False}, ["[1, 1]"]),
    (an_object(propertyNames=S, additionalProperties=I), ['{"x": 1}']),
    (
        {
            "then": S,
            "type": "integer",
            "format": "int64",
            "$schema": "http://json-schema.org/draft-07/schema#",
        },
        ["7"],
    ),
]


RANGES = [
    (0, 0),
    (-5, 123),
    (17, 9841),
    (-2048, -37),
    (99, 1000),
    (1000, 1999),
    (None, -98),
    (41, None),
    (-3, None),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([string.printable], TokenizerConfig(kind="byte"), None)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.mark.parametrize("schema", KEPT, ids=lambda schema: json.dumps(schema)[:50])
def test_random_texts_fit_their_schema(grammars: GrammarCompiler, schema: dict[str, Any]) -> None:
    validator, whole = jsonschema.Draft202012Validator(schema), 0
    for seed in range(12):
        written = walk(grammars, schema, seed)
        if written is not None:
            validator.validate(json.loads(written, object_pairs_hook=once))
            whole += 1
    assert whole


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=lambda value: json.dumps(value)[:50])
def test_what_cannot_be_kept_is_refused_by_keyword_and_place_or_dropped(
    grammars: GrammarCompiler, schema: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"^json_schema, at {said}"):
        grammars.compile(SamplingConfig(json_schema=schema))
    place = said.partition(": ")[0].replace("\\", "")
    assert list(grammars.prepare(schema, loosen=True).loosened) == [place]


@pytest.mark.parametrize(("schema", "texts"), TAKEN, ids=lambda value: json.dumps(value)[:50])
def test_what_fits_may_be_written(
    grammars: GrammarCompiler, schema: dict[str, Any], texts: list[str]
) -> None:
    for each in texts:
        jsonschema.Draft202012Validator(schema).validate(json.loads(each))
        assert fits(grammars, schema, each), each


def test_objects_that_list_their_names_have_no_others_unless_they_say_so(grammars: GrammarCompiler) -> None:
    for schema, more in (
        (TWO, False),
        ({**TWO, "additionalProperties": True}, True),
        ({**TWO, "patternProperties": {"^y": I}}, True),
    ):
        assert fits(grammars, schema, '{"x": 1}')
        assert fits(grammars, schema, '{"x": 1, "y": 2}') == more
        assert not fits(grammars, schema, '{"x": 1, "\\u0078": "y"}'), "the same name in another spelling"


def test_control_characters_of_constants_are_kept_or_refused(grammars: GrammarCompiler) -> None:
    constant = {"const": "a\x01\n"}
    assert json.loads(walk(grammars, constant, 0) or "") == "a\x01\n"
    schema = {"anyOf": [constant, {**TWO, "additionalProperties": True}]}
    with pytest.raises(InputError, match=r"^json_schema: constants and names with control characters"):
        grammars.compile(SamplingConfig(json_schema=schema))


def test_bounds_are_not_widened_by_doubles() -> None:
    step = {"multipleOf": 2}  # which no rule writes out
    bounds = prepare_schema(
        {"type": "integer", "minimum": 2**53 + 1, "exclusiveMaximum": 2**62 + 1, **step}
    ).schema
    assert (bounds["minimum"], bounds["maximum"]) == (2**53 + 2, 2**62)
    assert prepare_schema({"type": "integer", "exclusiveMinimum": True, "minimum": 3}).schema == {
        "type": "integer",
        "minimum": 4,
    }


def test_numbers_behind_a_long_way_are_refused_by_place_and_circles_end(grammars: GrammarCompiler) -> None:
    ways = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(3000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**ways, "d3000": {"const": 2**60 + 1}}}
    with pytest.raises(InputError, match=r"^json_schema, at #/\$defs/d3000/const: 1,152,921,504,606,846,977"):
        grammars.compile(SamplingConfig(json_schema=schema))
    circle = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"const": 2**60 + 1}]}},
    }
    assert walk(grammars, circle, 0) == str(2**60 + 1)


def test_a_number_that_python_does_not_read_is_named() -> None:
    with pytest.raises(InputError, match=r"^json_schema: a number has more than 4,300 digits$"):
        parse_schema(f'{{"const": {"1" * 5000}}}')
    with pytest.raises(InputError, match=r"^json_schema: a number has more than 4,300 digits$"):
        parse_schema({"const": 10**5000})


def test_a_check_finds_what_a_loosened_schema_lets_through(grammars: GrammarCompiler) -> None:
    schema = {"type": "array", "uniqueItems": True}
    assert grammars.check(schema, [1, 2]) == []
    (found,) = grammars.check(schema, [1, 1]) or []
    assert "non-unique" in found
    assert grammars.check({"type": "circle"}, 1) is None


@pytest.mark.parametrize("keyword", ["not", "contains", "$ref"])
def test_a_check_fetches_nothing_from_the_network(grammars: GrammarCompiler, keyword: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        elsewhere = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        schema = {keyword: elsewhere if keyword == "$ref" else {"$ref": elsewhere}}
        assert grammars.check(schema, [1]) is None
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_check_knows_the_specifications_own_schemas(grammars: GrammarCompiler) -> None:
    schema = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert grammars.check(schema, {"type": "integer"}) == []
    assert grammars.check(schema, {"type": "circle"})


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    assert len(found) == len(pairs), "a name stands there twice"
    return found


def walk(grammars: GrammarCompiler, schema: dict[str, Any], seed: int, most: int = 300) -> str | None:
    """A random text of what the schema allows; None when it does not end soon. What ends values, and escapes,
    are likelier."""
    constraint, random_, tokenizer = (
        grammars.compile(SamplingConfig(json_schema=schema)),
        random.Random(seed),
        grammars.tokenizer,
    )
    assert constraint is not None
    table, found = tokenizer.bytes_of_tokens, b""
    while not constraint.complete and len(found) < most:
        able = constraint.allowed(tokenizer.vocab_size).nonzero()[:, 0].tolist()
        if tokenizer.eos_id in able and (len(able) == 1 or random_.random() < 0.3):
            break
        able = [token for token in able if token != tokenizer.eos_id]
        near = [
            token for token in able if table[token] in (b'"', b"}", b"]", b"0", b"a", b"\\", b"u", b"-", b".")
        ]
        token = random_.choice(near if near and random_.random() < 0.7 else able)
        constraint.take(token)
        found += table[token]
    return found.decode() if len(found) < most else None


def fits(grammars: GrammarCompiler, schema: dict[str, Any], written: str) -> bool:
    constraint, tokenizer = grammars.compile(SamplingConfig(json_schema=schema)), grammars.tokenizer
    assert constraint is not None
    ids = tokenizer.encode(written)
    if constraint.fitting(ids) < len(ids):
        return False
    for token in ids:
        constraint.take(token)
    return constraint.complete or bool(constraint.allowed(tokenizer.vocab_size)[tokenizer.eos_id])


@pytest.mark.parametrize(
    "bounds",
    [
        (0, 0),
        (-5, 123),
        (17, 9841),
        (-2048, -37),
        (99, 1000),
        (1000, 1999),
        (None, -98),
        (41, None),
        (-3, None),
    ],
)
def test_an_expression_of_a_range_holds_its_integers_alone(bounds: tuple[int | None, int | None]) -> None:
    expression = re.compile(integer_range(*bounds) or "(?!)")
    low, high = (
        bound if bound is not None else sign * 10**9 for bound, sign in zip(bounds, (-1, 1), strict=True)
    )
    for each in range(-12_000, 12_000):
        assert bool(expression.fullmatch(str(each))) == (low <= each <= high), each
    assert not expression.fullmatch("007")
    assert integer_range(2, 1) is None
