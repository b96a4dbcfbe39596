"""Calls of tools as clients get them: in each format of chat templates, whatever their arguments hold, whole
or not at all."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from chat_folders import make_chat_model
from server_process import Running

from newleaf.generate.constraints.constraint import Constraint
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers.answer_grammar import answer_grammar, calls_answer, text_answer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

HELLO: Any = [{"role": "user", "content": "What is the capital?"}]
FORMS = ("chatml", "qwen3", "llama3", "mistral-list", "mistral-named", "qwen3-coder", "glm")
NASTY = '</tool_call>"}[ARGS][TOOL_CALLS]'
PARAMETERS: dict[str, dict[str, Any] | None] = {
    "a constant that holds marks": {
        "type": "object",
        "properties": {"a": {"const": NASTY}},
        "required": ["a"],
    },
    "without a type": {"properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    "nullable": {"type": ["object", "null"], "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    "any of two": {
        "anyOf": [
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
            {"type": "null"},
        ]
    },
    "empty": {},
    "absent": None,
}


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("calling")
    # These random models hardly ever think, and soon close what they have opened.
    for kind in FORMS:
        make_chat_model(folder / kind, kind, bias={"<think>": -100.0} if kind == "qwen3" else None)
    running = Running([folder / kind for kind in FORMS], tmp_path_factory.mktemp("home"))
    yield running
    assert running.end() == 0, running.log


def tool(parameters: dict[str, Any] | None, name: str = "go") -> dict[str, Any]:
    more = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, "description": "Goes.", **more}}


def ask(running: Running, model: str, **options: Any) -> Any:
    options = {"max_tokens": 1500, "seed": 1, "messages": HELLO, "model": model} | options
    return running.client().chat.completions.create(**options)


@pytest.mark.parametrize("model", FORMS)
@pytest.mark.parametrize("what", PARAMETERS)
def test_required_calls_are_calls_in_every_form(calling: Running, model: str, what: str) -> None:
    parameters = PARAMETERS[what]
    # "}" of the byte-level tokenizers
    bias = {"logit_bias": {"92": 3}} if what in ("empty", "absent") else {}
    options: Any = {
        "tools": [tool(parameters)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        **bias,
    }
    choice = ask(calling, model, **options).choices[0]
    assert choice.finish_reason in ("tool_calls", "length")
    assert choice.message.content in (None, "")
    if what not in ("empty", "absent"):
        assert choice.finish_reason == "tool_calls"
    for call in choice.message.tool_calls or []:
        arguments = json.loads(call.function.arguments)
        assert isinstance(arguments, dict)
        if parameters and "required" in parameters:
            assert "a" in arguments
        if what.startswith("a constant"):
            assert arguments == {"a": NASTY}


@pytest.mark.parametrize("model", FORMS)
def test_a_call_that_is_cut_is_dropped_and_the_end_says_length(calling: Running, model: str) -> None:
    long = {"type": "object", "properties": {"a": {"const": "b" * 200}}, "required": ["a"]}
    options: Any = {"tools": [tool(long)], "tool_choice": "required", "max_tokens": 60}
    choice = ask(calling, model, **options).choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("length", "", None)
    chunks = [chunk.choices[0] for chunk in ask(calling, model, stream=True, **options)]
    assert chunks[-1].finish_reason == "length"
    assert not any(chunk.delta.content for chunk in chunks)
    calls = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    # what a stream has begun stays, as OpenAI's does
    arguments = "".join(call.function.arguments for call in calls)
    assert '{"a":"bbb'.startswith("".join(arguments.split())[:8])
    assert [call.function.name for call in calls[:1]] == ["go"][: len(calls)]


@pytest.mark.parametrize("model", FORMS)
def test_calls_are_streamed_by_name_and_then_in_pieces(calling: Running, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": "b" * 30}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
    }
    options: Any = {"tools": [tool(schema)], "tool_choice": "required", "parallel_tool_calls": False}
    chunks = [chunk.choices[0] for chunk in ask(calling, model, stream=True, **options)]
    first, *rest = [call for chunk in chunks for call in chunk.delta.tool_calls or []]
    assert (first.index, first.type, first.function.name, first.function.arguments) == (
        0,
        "function",
        "go",
        "",
    )
    assert first.id
    assert len(rest) > 2
    assert all((each.index, each.id, each.function.name) == (0, None, None) for each in rest)
    found = json.loads("".join(each.function.arguments for each in rest))
    assert found["a"] == "b" * 30
    assert isinstance(found["b"], bool)
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("most", [1500, 80])
def test_events_of_a_response_tell_of_a_call_while_it_is_written(calling: Running, most: int) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": "b" * 60}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "name": "go", "parameters": schema, "strict": True}]
    options: Any = {
        "model": "qwen3",
        "input": "Go.",
        "tools": tools,
        "tool_choice": "required",
        "temperature": 0,
    }
    stream = calling.client().responses.create(
        **options, max_output_tokens=most, parallel_tool_calls=False, stream=True
    )
    events = [event for event in stream if event.type != "response.in_progress"]
    assert [event.sequence_number for event in events][1:] == list(range(2, len(events) + 1))
    kinds = [event.type for event in events]
    deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
    assert kinds[:2] == ["response.created", "response.output_item.added"]
    assert len(deltas) > 2
    assert {event.item_id for event in deltas} == {events[1].item.id}
    written, (item,) = "".join(event.delta for event in deltas), events[-1].response.output
    assert item.arguments == written
    if most == 1500:
        assert kinds[-3:] == [
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert (json.loads(written), item.status) == ({"a": "b" * 60}, "completed")
    else:
        assert kinds[-2:] == ["response.output_item.done", "response.incomplete"]
        assert (item.status, "response.function_call_arguments.done" in kinds) == ("incomplete", False)


def test_responses_are_incomplete_where_a_call_is_cut(calling: Running) -> None:
    long = {
        "type": "object",
        "properties": {"a": {"const": "b" * 200}},
        "required": ["a"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "name": "go", "parameters": long, "strict": True}]
    client = calling.client()
    options: Any = {
        "model": "qwen3",
        "input": "Go.",
        "tools": tools,
        "tool_choice": "required",
        "temperature": 0,
    }
    cut = client.responses.create(**options, max_output_tokens=60)
    assert (cut.status, cut.output) == ("incomplete", [])
    whole = client.responses.create(**options, max_output_tokens=1500)
    assert whole.status == "completed"
    assert [json.loads(item.arguments) for item in whole.output] == [{"a": "b" * 200}] * len(whole.output)
    assert whole.output


def test_free_calls_may_hold_their_own_marks(calling: Running) -> None:
    arguments = json.dumps({"a": "</tool_call>\n<tool_call>", "b": '\\"}'})
    text = f'Well.\n<tool_call>\n{{"name": "go", "arguments": {arguments}}}\n</tool_call>'
    forced: Any = {"tools": [tool(None)], "extra_body": {"grammar": f"start: {json.dumps(text)}"}}
    choice = ask(calling, "qwen3", **forced).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Well.")
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls] == [
        json.loads(arguments)
    ]
    deltas = [chunk.choices[0].delta for chunk in ask(calling, "qwen3", stream=True, **forced)]
    assert "".join(delta.content or "" for delta in deltas) == "Well."
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert json.loads("".join(call.function.arguments for call in calls)) == json.loads(arguments)


def test_text_or_calls_after_text_are_what_our_own_form_allows() -> None:
    tokenizer = train_tokenizer([string.printable], TokenizerConfig(kind="byte"), None)
    function = {
        "name": "go",
        "parameters": prepare_schema({"type": "object", "properties": {"far": {"type": "boolean"}}}),
    }
    calls = calls_answer("own", [function], True, lambda mark: None, "text")
    grammar = answer_grammar("none", [calls, text_answer()])
    call = '<tool_call>\n{"name": "go", "arguments": {"far": true}}\n</tool_call>'
    grammars = GrammarCompiler(tokenizer)

    def fits(text: str) -> bool:
        constraint = grammars.compile(SamplingConfig(grammar=grammar))
        assert isinstance(constraint, Constraint)
        ids = tokenizer.encode(text)
        if constraint.fitting(ids) < len(ids):
            return False
        for token in ids:
            constraint.take(token)
        return constraint.complete or bool(constraint.allowed(tokenizer.vocab_size)[tokenizer.eos_id])

    for text in ("", "Well.", "2 < 3", "a <tool", call, f"Well.\n{call}", f"{call}\n{call}"):
        assert fits(text), text
    for text in (
        "<tool_call>",
        call[:-1],
        call.replace("true", "7"),
        call.replace("go", "fly"),
        "Well. <tool_call>x</tool_call>",
    ):
        assert not fits(text), text


def test_openai_clients_parse_such_calls(calling: Running) -> None:
    client: openai.OpenAI = calling.client()
    options: Any = {
        "tools": [tool({"type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"]})]
    }
    with client.chat.completions.stream(
        model="mistral-named",
        messages=HELLO,
        tool_choice="required",
        max_tokens=1500,
        seed=2,
        parallel_tool_calls=False,
        **options,
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments)["far"], bool)


@pytest.mark.parametrize("model", FORMS)
def test_a_past_call_may_hold_half_a_surrogate_pair_as_json_writes_it(calling: Running, model: str) -> None:
    call: Any = {
        "id": "call00001",
        "type": "function",
        "function": {"name": "go", "arguments": '{"a": "\\ud800"}'},
    }
    past: Any = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00001", "content": "Paris"},
    ]
    for tools in ({}, {"tools": [tool(None)]}):
        assert (
            ask(calling, model, messages=[*past, *HELLO], max_tokens=2, **tools).usage.completion_tokens > 0
        )
    item: Any = {
        "type": "function_call",
        "call_id": "call00001",
        "name": "go",
        "arguments": '{"a": "\\ud800"}',
    }
    result: Any = {"type": "function_call_output", "call_id": "call00001", "output": "Paris"}
    answer = calling.client().responses.create(
        model=model, input=[*HELLO, item, result, *HELLO], max_output_tokens=16
    )
    assert answer.error is None


@pytest.mark.parametrize("penalty", [5e-324, 1e-30])
def test_a_penalty_that_no_logit_outlives_is_the_requests_error(calling: Running, penalty: float) -> None:
    with pytest.raises(openai.BadRequestError, match="repetition_penalty"):
        ask(calling, "chatml", extra_body={"repetition_penalty": penalty}, max_tokens=2)
