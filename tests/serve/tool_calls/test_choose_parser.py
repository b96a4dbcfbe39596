"""Calls of tools are found in text that comes in any pieces; what cannot be read stays text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.serve.http.rate_limit import RateLimiter, TokenBucket
from newleaf.serve.tool_calls.choose_parser import tool_call_parser
from newleaf.serve.tool_calls.tool_call import (
    CallFormat,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    detect_format,
)
from newleaf.text.reasoning import ChannelSplitter, Part

NAMES = ("go", "stop")
GO = ToolCall("go", '{"far": true}')
CASES: list[tuple[CallFormat, str, str, list[ToolCall]]] = [
    ("tags", '<tool_call>\n{"name": "go", "arguments": {"far": true}}\n</tool_call>', "", [GO]),
    ("tags", 'Well. <tool_call>{"name": "go", "arguments": {"far": true}}</tool_call>\n', "Well.", [GO]),
    (
        "own",
        '<tool_call>{"name": "stop"}</tool_call>\n<tool_call>{"name": "go", "arguments": '
        '"{\\"far\\": true}"}</tool_call>',
        "",
        [ToolCall("stop", "{}"), GO],
    ),
    ("tags", '<tool_call>{"name": "go", "arguments": {"far": true}}', "", [GO]),
    (
        "tags",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        [],
    ),
    ("tags", '<tool_call>{"name": "go", "arg', '<tool_call>{"name": "go", "arg', []),
    ("tags", "a < b, <tool", "a < b, <tool", []),
    ("bare", '{"name": "go", "parameters": {"far": true}}', "", [GO]),
    ("bare", '<|python_tag|>{"name": "go", "parameters": {"far": true}}', "", [GO]),
    (
        "bare",
        '[{"name": "go", "arguments": {"far": true}}, {"name": "stop"}]',
        "",
        [GO, ToolCall("stop", "{}")],
    ),
    ("bare", '{"answer": 42}', '{"answer": 42}', []),
    ("bare", "Hello {", "Hello {", []),
    ("list", '[TOOL_CALLS] [{"name": "go", "arguments": {"far": true}}]', "", [GO]),
    ("list", '[TOOL_CALLS]go[ARGS]{"far": true}', "", [GO]),
    ("list", "[TOO bad", "[TOO bad", []),
    ("list", "[TOOL_CALLS] nonsense", "[TOOL_CALLS] nonsense", []),
    # Marks within arguments are arguments.
    (
        "tags",
        '<tool_call>{"name": "go", "arguments": {"a": "</tool_call>"}}</tool_call>',
        "",
        [ToolCall("go", '{"a": "</tool_call>"}')],
    ),
    (
        "own",
        '<tool_call>{"name": "go", "arguments": {"a": '
        '"\\"}<tool_call>"}}\n</tool_call>\n<tool_call>{"name": "stop"}</tool_call>',
        "",
        [ToolCall("go", '{"a": "\\"}<tool_call>"}'), ToolCall("stop", "{}")],
    ),
    (
        "named",
        '[TOOL_CALLS]go[ARGS]{"a": "[ARGS][TOOL_CALLS]stop[ARGS]{}"}',
        "",
        [ToolCall("go", '{"a": "[ARGS][TOOL_CALLS]stop[ARGS]{}"}')],
    ),
    (
        "list",
        '[TOOL_CALLS] [{"name": "go", "arguments": {"a": "[ARGS]"}}]',
        "",
        [ToolCall("go", '{"a": "[ARGS]"}')],
    ),
    (
        "named",
        '[TOOL_CALLS]go[ARGS]{"far": true}[TOOL_CALLS]stop[CALL_ID]abc[ARGS]{}',
        "",
        [GO, ToolCall("stop", "{}")],
    ),
    ("list", 'Sure. [TOOL_CALLS][{"name": "go", "arguments": {"far": true}}]', "Sure.", [GO]),
    (
        "bare",
        '{"name": "go", "parameters": {"far": true}}; {"name": "stop", "parameters": {}}',
        "",
        [GO, ToolCall("stop", "{}")],
    ),
    # What a function without parameters, or with nullable ones, is given.
    ("tags", '<tool_call>{"name": "stop", "arguments": null}</tool_call>', "", [ToolCall("stop", "{}")]),
    ("bare", '{"name": "stop", "parameters": null}', "", [ToolCall("stop", "{}")]),
    (
        "tags",
        '<tool_call>{"name": "go", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "go", "arguments": [1]}</tool_call>',
        [],
    ),
    # Slips that models make: no end tag, line ends within strings, text in a tag.
    (
        "tags",
        '<tool_call>{"name": "stop"}\n<tool_call>{"name": "stop"}</tool_call>',
        "",
        [ToolCall("stop", "{}")] * 2,
    ),
    (
        "tags",
        '<tool_call>{"name": "go", "arguments": {"a": "b\nc"}}</tool_call>',
        "",
        [ToolCall("go", '{"a": "b\\nc"}')],
    ),
    (
        "tags",
        '<tool_call>go</tool_call> <tool_call>{"name": "stop"}</tool_call>',
        "<tool_call>go</tool_call>",
        [ToolCall("stop", "{}")],
    ),
    (
        "tags",
        '<tool_call>{"a</tool_call>\n<tool_call>{"name": "stop"}</tool_call>',
        '<tool_call>{"a</tool_call>',
        [ToolCall("stop", "{}")],
    ),
    (
        "tags",
        '<tool_call>{"name": "go", "arguments": {"a": 1e999}}',
        '<tool_call>{"name": "go", "arguments": {"a": 1e999}}',
        [],
    ),
    (
        "tags",
        '<tool_call>{"name": "go", "arguments": {"a": "\\ud800"}}',
        "",
        [ToolCall("go", '{"a": "\\ud800"}')],
    ),
]
CUT: list[tuple[CallFormat, bool, str, str, list[ToolCall]]] = [
    ("tags", False, 'Well. <tool_call>{"name": "go", "argu', "Well.", []),
    (
        "tags",
        False,
        '<tool_call>{"name": "go", "arguments": {"far": true}}</tool_call>\n<tool_call>{"name": "st',
        "",
        [GO],
    ),
    ("tags", False, '<tool_call>{"name": "go", "arguments": {"far": true}}\n</tool', "", [GO]),
    ("tags", False, "<tool_call>", "", []),
    ("own", True, "<tool_ca", "", []),
    ("own", False, "a < b, <tool", "a < b, <tool", []),
    ("list", False, '[TOOL_CALLS] [{"name": "go", "arguments": {"far": true}}, {"name": "st', "", [GO]),
    ("list", True, '[{"name": "go", "arg', "", []),
    ("named", True, 'go[ARGS]{"far": true}[TOOL_CALLS]sto', "", [GO]),
    ("named", False, "[TOOL_CALLS]go[AR", "", []),
    ("bare", True, '{"name"', "", []),
    ("bare", False, '{"name": "go", "parameters": {"a": "', "", []),
    ("bare", False, '{"name": "Ann", "age": ', '{"name": "Ann", "age": ', []),
    ("bare", False, "<|python_tag|>{", "", []),
]


@pytest.mark.parametrize(("call_format", "required", "text", "said", "calls"), CUT)
def test_a_call_that_is_cut_is_dropped(
    call_format: CallFormat, required: bool, text: str, said: str, calls: list[ToolCall]
) -> None:
    for pieces in ([text], list(text)):
        read = tool_call_parser(call_format, NAMES, required)
        found = [each for piece in pieces for each in read.push(Part("content", piece))] + read.finish(
            cut=True
        )
        assert [each for each in found if isinstance(each, ToolCall)] == calls
        assert "".join(each.text for each in found if isinstance(each, Part)) == said


@pytest.mark.parametrize(
    ("call_format", "text"),
    [("list", '[{"name": "go", "arguments": {"far": true}}]'), ("named", 'go[ARGS]{"far": true}')],
)
def test_a_mark_that_stands_in_the_prompt_need_not_be_written(call_format: CallFormat, text: str) -> None:
    read = tool_call_parser(call_format, NAMES, required=True)
    assert read.push(Part("content", text)) + read.finish() == [GO]


@pytest.mark.parametrize(("call_format", "text", "said", "calls"), CASES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_calls_are_found_however_the_text_is_cut(
    call_format: CallFormat, text: str, said: str, calls: list[ToolCall], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    read = tool_call_parser(call_format, NAMES)
    found = [each for piece in pieces for each in read.push(Part("content", piece))] + read.finish()
    assert [each for each in found if isinstance(each, ToolCall)] == calls
    assert "".join(each.text for each in found if isinstance(each, Part)) == said


@pytest.mark.parametrize(("call_format", "text", "said", "calls"), CASES)
def test_calls_told_while_they_come_are_the_same(
    call_format: CallFormat, text: str, said: str, calls: list[ToolCall]
) -> None:
    if "1e999" in text:  # once told, it cannot become text
        return
    for pieces in ([text], list(text)):
        read = tool_call_parser(call_format, NAMES, streaming=True)
        found = [each for piece in pieces for each in read.push(Part("content", piece))] + read.finish()
        told: list[list[str]] = []
        for each in found:
            if isinstance(each, ToolCall | ToolCallStart):
                told.append([each.name, each.arguments if isinstance(each, ToolCall) else ""])
            elif isinstance(each, ToolCallDelta):
                told[-1][1] += each.arguments
        assert [(name, json.loads(arguments)) for name, arguments in told] == [
            (call.name, json.loads(call.arguments)) for call in calls
        ]
        assert "".join(each.text for each in found if isinstance(each, Part)) == said


def test_the_end_of_a_call_is_told_where_it_is_whole() -> None:
    for text, ends in (
        ('<tool_call>{"name": "go", "arguments": {"far": tr', 0),
        ('<tool_call>{"name": "go", "arguments": {}', 1),
    ):
        read = tool_call_parser("tags", NAMES, streaming=True)
        found = read.push(Part("content", text)) + read.finish(cut=True)
        assert found[0] == ToolCallStart("go")
        assert found.count(ToolCallEnd()) == ends


def test_thoughts_are_not_searched_for_calls() -> None:
    read = tool_call_parser("tags", NAMES)
    thought = Part("reasoning", '<tool_call>{"name": "go"}</tool_call>')
    assert read.push(thought) + read.finish() == [thought]


def test_gpt_oss_calls_functions_in_a_channel_of_their_own() -> None:
    text = (
        "<|channel|>analysis<|message|>Far.<|end|><|start|>assistant<|channel|>commentary "
        "to=functions.go <|constrain|>json<|message|>"
    )
    text += json.dumps({"far": True})
    split, read = ChannelSplitter(), tool_call_parser("harmony", NAMES)
    parts = [part for piece in (text[:70], text[70:]) for part in split.push(piece)] + split.finish()
    found = [each for part in parts for each in read.push(part)] + read.finish()
    assert "".join(each.text for each in found if isinstance(each, Part)) == "Far."
    assert [each for each in found if isinstance(each, ToolCall)] == [GO]


def test_templates_tell_how_their_models_call() -> None:
    assert detect_format("{{ messages }}") == "own"
    assert detect_format("{% if tools %}<tool_call>{% endif %}") == "tags"
    assert detect_format("{% if tools %}[TOOL_CALLS]{% endif %}") == "list"
    assert detect_format("{% if tools %}[TOOL_CALLS]{{ name }}[ARGS]{% endif %}") == "named"
    assert detect_format("{% if tools %}{{ tools }}{% endif %}") == "bare"
    assert detect_format("{% if tools %}<|channel|><|message|>{% endif %}") == "harmony"


def test_a_bucket_gives_a_minutes_worth_and_fills_steadily() -> None:
    now = 0.0
    bucket = TokenBucket(60, lambda: now)
    assert bucket.wait(60) == 0
    bucket.take(60)
    assert bucket.wait(1) == pytest.approx(1)
    now = 30.5
    assert bucket.wait(30) == 0
    assert bucket.wait(31) == pytest.approx(0.5)
    now = 1000
    bucket.wait(0)
    bucket.take(90)  # tokens are known when they have been used
    assert bucket.wait(1) == pytest.approx(31)
    rates = RateLimiter(2, None, lambda: now)
    assert [rates.admit() for _ in range(3)] == [0, 0, pytest.approx(30)]
