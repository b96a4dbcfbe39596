"""Calls in sections of their own: what DeepSeek's and Kimi's templates write of calls is read as these calls,
and required ones are so."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.generate.constraints.constraint import Constraint
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers.answer_grammar import answer_grammar, calls_answer
from newleaf.serve.tool_calls.choose_parser import tool_call_parser
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    CallFormat,
    ToolCall,
    ToolCallDelta,
    ToolCallStart,
    detect_format,
)
from newleaf.text.reasoning import Part
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

NAMES = ("go", "stop")
V3 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>go\n```json\n%s\n```<｜tool▁call▁end｜>\n"
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>stop\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
V31 = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>go<｜tool▁sep｜>%s<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>stop<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
KIMI = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.go:0<|tool_call_argument_begin|>%s<|tool_call_end|>"
    "<|tool_call_begin|>functions.stop:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
)
WRITTEN: dict[CallFormat, str] = {"deepseek-v3": V3, "deepseek-v3.1": V31, "kimi": KIMI}
ARGUMENTS = ({"far": True}, {"a": "<｜tool▁calls▁end｜>```<|tool_call_end|>"}, {})


def read(
    call_format: CallFormat, pieces: list[str], cut: bool = False, streaming: bool = False
) -> tuple[str, list[tuple[str, str]]]:
    one = tool_call_parser(call_format, NAMES, streaming=streaming)
    found: list[AnswerPart] = [
        each for piece in pieces for each in one.push(Part("content", piece))
    ] + one.finish(cut)
    calls: list[list[str]] = []
    for each in found:
        if isinstance(each, ToolCall | ToolCallStart):
            calls.append([each.name, each.arguments if isinstance(each, ToolCall) else ""])
        elif isinstance(each, ToolCallDelta):
            calls[-1][1] += each.arguments
    return "".join(each.text for each in found if isinstance(each, Part)), [
        (name, text) for name, text in calls
    ]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("call_format", WRITTEN)
@settings(max_examples=30, deadline=None)
@given(
    arguments=st.sampled_from(ARGUMENTS),
    said=st.sampled_from(["", "Well. "]),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)
def test_calls_of_a_section_are_read(
    call_format: CallFormat, streaming: bool, arguments: Any, said: str, cuts: list[int]
) -> None:
    text = said + WRITTEN[call_format] % json.dumps(arguments, ensure_ascii=False)
    places = sorted(min(place, len(text)) for place in cuts)
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    found, calls = read(call_format, pieces, streaming=streaming)
    assert (found, [(name, json.loads(each)) for name, each in calls]) == (
        said.strip(),
        [("go", arguments), ("stop", {})],
    )


@pytest.mark.parametrize("call_format", WRITTEN)
def test_what_is_no_call_comes_as_text_and_what_is_cut_is_dropped(call_format: CallFormat) -> None:
    other = WRITTEN[call_format].replace("go", "fly").replace("stop", "fly") % "{}"
    assert read(call_format, list(other)) == (other, [])
    text = WRITTEN[call_format] % '{"far": true}'
    assert read(call_format, [text[: text.index("stop") + 2]], cut=True) == ("", [("go", '{"far": true}')])
    assert read(call_format, [text[: text.index("true") + 2]], cut=True) == ("", [])
    assert read(call_format, ["a < b, <"]) == ("a < b, <", [])


@pytest.mark.parametrize("call_format", WRITTEN)
def test_required_calls_are_written_so(call_format: CallFormat) -> None:
    tokenizer = train_tokenizer([string.printable + WRITTEN[call_format]], TokenizerConfig(kind="byte"), None)
    schema = {"type": "object", "properties": {"far": {"type": "boolean"}}, "required": ["far"]}
    functions = [
        {"name": "go", "parameters": prepare_schema(schema)},
        {"name": "stop", "parameters": prepare_schema({"type": "object", "properties": {}})},
    ]
    grammar = answer_grammar("none", [calls_answer(call_format, functions, True, lambda mark: None, "none")])
    grammars = GrammarCompiler(tokenizer)
    for text, fits in (
        (WRITTEN[call_format] % '{"far": true}', True),
        (WRITTEN[call_format] % "{}", False),
        (WRITTEN[call_format] % '{"far": 1}', False),
    ):
        constraint = grammars.compile(SamplingConfig(grammar=grammar))
        assert isinstance(constraint, Constraint)
        ids = tokenizer.encode(text)
        assert (constraint.fitting(ids) == len(ids)) == fits, text


def test_templates_tell_their_form() -> None:
    assert detect_format("{{ tools }}" + V3) == "deepseek-v3"
    assert detect_format("{{ tools }}" + V31) == "deepseek-v3.1"
    assert detect_format("{{ tools }}" + KIMI) == "kimi"
