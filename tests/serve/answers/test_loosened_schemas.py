"""Schemas with keywords that no grammar keeps: strict ones are refused by name, others are loosened, named,
and checked afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from chat_folders import make_chat_model
from server_process import Running, until

from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.serve.answers.answer_schema import AnswerSchema
from newleaf.serve.models.loaded_model import ConcurrencyLimit
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

# as a set of Python is described
SET = {"type": "array", "items": {"enum": [1]}, "uniqueItems": True, "minItems": 2, "maxItems": 2}
TAGS: dict[str, Any] = {"type": "object", "properties": {"tags": SET}, "required": ["tags"]}
PLACE = "properties/tags/uniqueItems"
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def loosening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("loosening")
    make_chat_model(folder / "chatml", "chatml")
    running = Running([folder / "chatml"], tmp_path_factory.mktemp("home"))
    yield running
    assert running.end() == 0, running.log


def form(strict: bool | None) -> dict[str, Any]:
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "tags", "schema": TAGS, "strict": strict},
        }
    }


def tools(strict: bool | None, choice: str = "auto") -> dict[str, Any]:
    function = {"name": "go", "parameters": TAGS, "strict": strict}
    plain = {"name": "stop", "parameters": {"type": "object", "properties": {}}}
    return {
        "tools": [{"type": "function", "function": each} for each in (plain, function)],
        "tool_choice": choice,
    }


@pytest.mark.parametrize("strict", [False, None])
def test_a_format_that_is_not_strict_is_loosened_and_what_does_not_fit_is_told(
    loosening: Running, strict: bool | None
) -> None:
    got = loosening.post("/v1/chat/completions", messages=HELLO, max_tokens=400, seed=1, **form(strict))
    assert got.headers["x-newleaf-loosened"] == f"response_format/json_schema/schema/{PLACE}"
    choice = got.json()["choices"][0]
    assert (choice["finish_reason"], json.loads(choice["message"]["content"])) == ("stop", {"tags": [1, 1]})
    assert "non-unique" in unquote(got.headers["x-newleaf-unmet"])
    until(lambda: "non-unique" in loosening.log.splitlines()[-1])


def test_tools_are_loosened_unless_they_are_strict(loosening: Running) -> None:
    got = loosening.post("/v1/chat/completions", messages=HELLO, max_tokens=3, seed=1, **tools(None))
    assert got.headers["x-newleaf-loosened"] == f"tools/1/function/parameters/{PLACE}"
    named = {"type": "function", "function": {"name": "go"}}
    got = loosening.post(
        "/v1/chat/completions",
        messages=HELLO,
        max_tokens=400,
        seed=1,
        **tools(False) | {"tool_choice": named},
    )
    (call,) = got.json()["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"tags": [1, 1]}
    assert unquote(got.headers["x-newleaf-unmet"]).startswith("tools/1/function/parameters: /tags: ")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": HELLO, **form(True)}, "response_format.json_schema.schema"),
        ("/v1/chat/completions", {"messages": HELLO, **tools(True)}, "tools[1].function.parameters"),
        (
            "/v1/chat/completions",
            {"messages": HELLO, **tools(True, "required")},
            "tools[1].function.parameters",
        ),
        (
            "/v1/responses",
            {
                "input": "Hi",
                "text": {"format": {"type": "json_schema", "name": "a", "schema": TAGS, "strict": True}},
            },
            "text.format.schema",
        ),
        (
            "/v1/responses",
            {
                "input": "Hi",
                "tools": [{"type": "function", "name": "go", "parameters": TAGS, "strict": True}],
                "tool_choice": "required",
            },
            "tools[0].parameters",
        ),
        ("/v1/completions", {"prompt": "a", "json_schema": TAGS}, "json_schema"),
    ],
)
def test_strict_schemas_are_refused_by_parameter_and_place(
    loosening: Running, path: str, body: dict[str, Any], param: str
) -> None:
    got = loosening.post(path, **body)
    error = got.json()["error"]
    assert (got.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}, at #/{PLACE}: ")
    assert "x-newleaf-loosened" not in got.headers


def test_what_only_the_grammar_finds_is_named_too(loosening: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(?!b).$"}},
        "required": ["a"],
    }
    function = {"name": "go", "parameters": schema}
    body: dict[str, Any] = {
        "messages": HELLO,
        "max_tokens": 3,
        "tools": [{"type": "function", "function": function}],
    }
    got = loosening.post("/v1/chat/completions", **body)
    assert got.headers["x-newleaf-loosened"] == "tools/0/function/parameters/properties/a/pattern"
    function["strict"] = True
    error = loosening.post("/v1/chat/completions", **body).json()["error"]
    assert error["param"] == "tools[0].function.parameters"
    assert "at #/properties/a/pattern: " in error["message"]


def test_a_schema_that_ends_the_grammar_library_is_one_requests_error(loosening: Running) -> None:
    ends = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(20_000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**ends, "d20000": {"type": "object"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    got = loosening.post("/v1/chat/completions", messages=HELLO, max_tokens=3, response_format=wanted)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "response_format.json_schema.schema")
    got = loosening.post("/v1/completions", prompt="a", json_schema=schema)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "json_schema")
    assert loosening.post("/v1/chat/completions", messages=HELLO, max_tokens=3).status_code == 200


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parameters_that_are_nested_too_deep_are_refused(loosening: Running, choice: str) -> None:
    nested: Any = {}
    for _ in range(150):
        nested = {"items": nested}
    asked = {
        "tools": [{"type": "function", "function": {"name": "go", "parameters": nested}}],
        "tool_choice": choice,
    }
    got = loosening.post("/v1/chat/completions", messages=HELLO, max_tokens=3, **asked)
    assert (got.status_code, got.json()["error"]["param"]) == (400, "tools[0].function.parameters")


def test_a_name_that_stands_twice_is_told_also_where_the_schema_is_strict(loosening: Running) -> None:
    schema = {"type": "object", "properties": {"b": {"const": 1}}, "additionalProperties": True}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    shape = AnswerSchema(schema, "response_format", "response_format/json_schema/schema", True)
    watched = shape.watched(prepare_schema(schema))
    assert watched is not None
    (found,) = watched.unmet(
        GrammarCompiler(train_tokenizer(["a"], TokenizerConfig(kind="byte"), None)),
        '{"a": 1, "c": {"x": 1}, "\\u0061": 2}',
    )
    assert found == "response_format/json_schema/schema: an object has the name 'a' twice"
    closed = {**schema, "additionalProperties": False}
    assert shape.watched(prepare_schema(closed)) is None
    got = loosening.post(
        "/v1/chat/completions", messages=HELLO, max_tokens=400, seed=1, response_format=wanted
    )
    assert got.status_code == 200


def test_checks_that_take_too_long_are_given_up_and_no_more_are_begun() -> None:
    async def many() -> list[str]:
        limit, told = ConcurrencyLimit(2, 0.01), []

        async def one() -> None:
            try:
                async with limit.slot():
                    told.append("begun")
                    await end.wait()
            except TimeoutError:
                told.append("given up")
                if told.count("given up") == 22:
                    end.set()

        end = asyncio.Event()
        await asyncio.gather(*(one() for _ in range(24)))
        async with limit.slot():
            told.append("again")
        return told

    told = asyncio.run(many())
    assert [told.count(each) for each in ("begun", "given up", "again")] == [2, 22, 1]


def test_a_slow_pattern_is_told_as_unchecked(loosening: Running) -> None:
    slow = {"type": "string", "pattern": "^(?=(a+)+$)b", "enum": ["a" * 40 + "b"]}
    schema = {"type": "object", "properties": {"a": slow}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    got = loosening.post(
        "/v1/chat/completions", messages=HELLO, max_tokens=400, seed=1, response_format=wanted
    )
    assert got.headers["x-newleaf-loosened"].endswith("properties/a/pattern")
    assert "was not checked" in unquote(got.headers["x-newleaf-unmet"])
