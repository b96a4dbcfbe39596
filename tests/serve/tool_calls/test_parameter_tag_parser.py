"""Calls whose parameters have tags of their own: what chat templates write of a call is read as that call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.serve.tool_calls.choose_parser import tool_call_parser
from newleaf.serve.tool_calls.tool_call import (
    AnswerPart,
    CallFormat,
    ToolCall,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    detect_format,
)
from newleaf.text.reasoning import Part

TEMPLATES = Path(__file__).parents[2] / "text" / "templates"
KINDS: dict[CallFormat, str] = {"qwen": "qwen3-coder.jinja", "glm": "glm.jinja"}
PROPERTIES = {
    "text": {"type": "string"},
    "count": {"type": "integer"},
    "ratio": {"type": "number"},
    "far": {"type": "boolean"},
    "list": {"type": "array"},
    "map": {"$ref": "#/$defs/map"},
    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "mode": {"enum": ["a", "1"]},
    "any": {},
}
GO = {"type": "object", "properties": PROPERTIES, "$defs": {"map": {"type": "object"}}}
FUNCTIONS: dict[str, Any] = {"go": GO, "stop": {"type": "object", "properties": {}}, "bare": None}
LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
# a line end at either edge is the format's own in Qwen's
PLAIN = st.text('ab <>/\n"{}\\é1', max_size=12).map(str.strip)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "text": PLAIN
        | st.sampled_from(
            ["12", "null", "true", '{"a": 1}', "a</parameter>b", "</function>", "<parameter=", "True", ""]
        ),
        "count": st.integers(-(10**20), 10**20),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "far": st.booleans(),
        "list": st.lists(st.integers() | LETTERS | st.none(), max_size=3),
        "map": st.dictionaries(LETTERS, st.booleans(), max_size=2),
        "maybe": st.none() | st.integers(0, 9),
        "mode": st.sampled_from(["a", "1"]),
    },
)


def rendered(call_format: CallFormat, calls: list[tuple[str, dict[str, Any]]], said: str = "") -> str:
    """What the template writes of an answer with these calls."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string((TEMPLATES / KINDS[call_format]).read_text("utf-8"))
    listed = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    text = template.render(messages=[{"role": "assistant", "content": said, "tool_calls": listed}])
    return (
        text.removeprefix("<|im_start|>assistant")
        .removesuffix("\n")
        .removesuffix("<|im_end|>")
        .removeprefix("\n")
    )


def read(
    call_format: CallFormat,
    pieces: list[str],
    cut: bool = False,
    streaming: bool = False,
    required: bool = False,
) -> tuple[str, list[tuple[str, Any]]]:
    """Text, and calls with their arguments parsed."""
    one = tool_call_parser(call_format, FUNCTIONS, required, streaming)
    found: list[AnswerPart] = [
        each for piece in pieces for each in one.push(Part("content", piece))
    ] + one.finish(cut)
    calls: list[list[str]] = []
    for each in found:
        if isinstance(each, ToolCall | ToolCallStart):
            calls.append([each.name, each.arguments if isinstance(each, ToolCall) else ""])
        elif isinstance(each, ToolCallDelta):
            calls[-1][1] += each.arguments
    assert sum(isinstance(each, ToolCallStart) for each in found) >= sum(
        isinstance(each, ToolCallEnd) for each in found
    )
    return "".join(each.text for each in found if isinstance(each, Part)), [
        (name, json.loads(text)) for name, text in calls
    ]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("call_format", KINDS)
@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=2), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_what_a_template_writes_of_calls_is_read_as_these_calls(
    call_format: CallFormat, streaming: bool, values: list[dict[str, Any]], cuts: list[int]
) -> None:
    calls = [("go", each) for each in values]
    text = rendered(call_format, calls)
    places = sorted(min(place, len(text)) for place in cuts)
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    tags = {"qwen": ("</parameter>",), "glm": ("</arg_value>",)}[call_format]
    if any(tag in str(each.get("text", "")) for tag in tags for each in values):
        return  # read below: such a value cannot be told in every case
    assert read(call_format, pieces, streaming=streaming) == ("", calls)


MANY = "\n<function=go>\n<parameter=count>\nmany\n</parameter>\n</function>\n"
FAR = "go\n<arg_key>far</arg_key>\n<arg_value>false</arg_value>\n"
TEXT = "\n<function=go>\n<parameter=text>a\nb</parameter>\n</function>\n"
INVOKED = (
    '\n<invoke name="go">\n<parameter name="count">3</parameter>\n</invoke>\n<invoke '
    'name="stop">\n</invoke>\n'
)
CASES: list[tuple[CallFormat, str, str, list[tuple[str, Any]]]] = [
    ("qwen", "Well.\n<tool_call>\n<function=stop>\n</function>\n</tool_call>", "Well.", [("stop", {})]),
    ("qwen", "<function=stop>\n</function>\n</tool_call>", "", [("stop", {})]),  # models forget the first tag
    (
        "qwen",
        "<tool_call>\n<function=go>\n<parameter=far>\nTrue\n</parameter>\n</function>",
        "",
        [("go", {"far": True})],
    ),
    (
        "qwen",
        f"<tool_call>{MANY}</tool_call>",
        "",
        [("go", {"count": "many"})],
    ),
    (
        "qwen",
        "<tool_call>\n<function=bare>\n<parameter=x>\n[1]\n</parameter>\n</function>\n</tool_call>",
        "",
        [("bare", {"x": [1]})],
    ),
    (
        "qwen",
        "<tool_call>\n<function=go>\n<parameter=text>\na\n</parameter> "
        "b\n</parameter>\n</function>\n</tool_call>",
        "",
        [("go", {"text": "a\n</parameter> b"})],
    ),
    (
        "qwen",
        "<tool_call>\n<function=fly>\n</function>\n</tool_call>",
        "<tool_call>\n<function=fly>\n</function>\n</tool_call>",
        [],
    ),
    ("qwen", '<tool_call>\n{"name": "stop", "arguments": {}}\n</tool_call>', "", [("stop", {})]),
    ("qwen", "a < b, <tool", "a < b, <tool", []),
    (
        "glm",
        f"<tool_call>stop\n</tool_call>\n<tool_call>{FAR}</tool_call>",
        "",
        [("stop", {}), ("go", {"far": False})],
    ),
    (
        "glm",
        "<tool_call>go<arg_key>text</arg_key><arg_value>1</arg_value></tool_call>",
        "",
        [("go", {"text": "1"})],
    ),
    (
        "seed",
        f"<seed:tool_call>{TEXT}</seed:tool_call>",
        "",
        [("go", {"text": "a\nb"})],
    ),
    (
        "minimax",
        f"<minimax:tool_call>{INVOKED}</minimax:tool_call>",
        "",
        [("go", {"count": 3}), ("stop", {})],
    ),
]


@pytest.mark.parametrize(("call_format", "text", "said", "calls"), CASES)
def test_calls_are_found_by_their_tags(
    call_format: CallFormat, text: str, said: str, calls: list[tuple[str, Any]]
) -> None:
    for pieces in ([text], list(text)):
        assert read(call_format, pieces) == (said, calls)
        assert read(call_format, pieces, streaming=True) == (said, calls)


@pytest.mark.parametrize("call_format", KINDS)
def test_of_calls_that_are_cut_the_whole_ones_stay(call_format: CallFormat) -> None:
    text = rendered(call_format, [("stop", {}), ("go", {"text": "abc"})])
    for size in range(text.index("abc"), text.index("abc") + 3):
        assert read(call_format, [text[:size]], cut=True) == ("", [("stop", {})])


def test_templates_tell_their_form() -> None:
    for call_format, name in KINDS.items():
        assert detect_format((TEMPLATES / name).read_text("utf-8")) == call_format
    assert detect_format("{{ tools }}<seed:tool_call><function=a><parameter=b>") == "seed"
    assert detect_format("{{ tools }}<minimax:tool_call><invoke name=><parameter name=>") == "minimax"
