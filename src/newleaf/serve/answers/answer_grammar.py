"""Lark grammars of answers: reasoning if a model has it, then JSON, tool calls or free text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from newleaf.generate.constraints.prepared_schema import PreparedSchema
from newleaf.serve.tool_calls.parameter_tag_grammar import parameter_tag_rules
from newleaf.serve.tool_calls.parameter_tag_parser import PARAMETER_TAG_FORMATS, ParameterTagFormat
from newleaf.serve.tool_calls.section_parser import SECTION_FORMATS, SectionFormat
from newleaf.serve.tool_calls.tool_call import (
    ARGS_TOKEN,
    CLOSE_TAG,
    CONSTRAIN_TOKEN,
    OPEN_TAG,
    TOOL_CALLS_TOKEN,
    CallFormat,
)
from newleaf.text.reasoning import ANALYSIS_CHANNEL, CHANNEL, END, MESSAGE, START
from newleaf.text.reasoning import CLOSE as THOUGHT_ENDS
from newleaf.text.reasoning import OPEN as THOUGHT_BEGINS

ReasoningState = Literal["none", "may", "inside"]
Lead = Literal["none", "mark", "text"]
MAX_CALLS = 16  # of one answer


def answer_grammar(thoughts: ReasoningState, answers: Sequence[str]) -> str:
    """A Lark grammar for llguidance of one of these `answers`, which the functions below make."""
    rules = [rule for answer in answers for rule in answer.splitlines()]
    names = " | ".join(answer.partition(":")[0] for answer in answers)
    if thoughts == "none":
        return "\n".join([f"start: {names}", *rules])
    begin = "" if thoughts == "inside" else f"{json.dumps(THOUGHT_BEGINS)} "
    many = "thoughts" if thoughts == "inside" else "thoughts?"
    more = [
        f"thoughts: {begin}thinking space",
        f"thinking[suffix={json.dumps(THOUGHT_ENDS)}]: /(?s:.*)/",
        r"space: /\s{0,4}/",
    ]
    return "\n".join([f"start: {many} answer", f"answer: {names}", *more, *rules])


def channel_grammar(
    control: Callable[[str], int | None], answers: Sequence[str], functions: Sequence[dict[str, Any]]
) -> str:
    """A Lark grammar of a message in gpt-oss's format (harmony).

    Reasoning in its channel if there is any, then one of `answers` in the final channel, or a call of one
    of these functions, whose parameters are `PreparedSchema`. `control` gives the ids of control tokens.
    """

    def mark(text: str) -> str:
        return _mark(control, text)

    names = " | ".join(answer.partition(":")[0] for answer in answers)
    channel, message = mark(CHANNEL), mark(MESSAGE)
    rules = [f'final: {channel} "final" {message} ({names})'] if answers else []
    rules += [rule for answer in answers for rule in answer.splitlines()]
    for number, each in enumerate(functions):
        head = json.dumps(f"commentary to=functions.{each['name']} ")
        rules.append(
            f'call_{number}: {channel} {head} {mark(CONSTRAIN_TOKEN)} "json" {message} arguments_{number}'
        )
        rules.append(each["parameters"].rules(f"arguments_{number}"))
    choices = " | ".join(
        [*(["final"] if answers else []), *(f"call_{number}" for number in range(len(functions)))]
    )
    thoughts = f'{channel} "{ANALYSIS_CHANNEL}" {message} THINKING? {mark(END)} {mark(START)} "assistant"'
    return "\n".join(
        [f"start: thoughts? ({choices})", f"thoughts: {thoughts}", "THINKING: /(?s:.+)/", *rules]
    )


def json_answer(schema: PreparedSchema) -> str:
    """JSON that fits this schema."""
    return schema.rules("json")


def text_answer(call_format: CallFormat = "own") -> str:
    """Any text without the beginning of a call."""
    mark = (
        PARAMETER_TAG_FORMATS[call_format].open
        if call_format in PARAMETER_TAG_FORMATS
        else SECTION_FORMATS[call_format].begin
        if call_format in SECTION_FORMATS
        else OPEN_TAG
    )
    return f"text: TEXT?\nTEXT: /(?s:.+)/ & ~/(?s:.*){_escaped(mark)}(?s:.*)/"


def calls_answer(
    call_format: CallFormat,
    functions: Sequence[dict[str, Any]],
    parallel: bool,
    control: Callable[[str], int | None],
    lead: Lead,
) -> str:
    """One call of these functions, or more where `parallel`; their parameters are `PreparedSchema`.

    `lead` says what comes before: nothing (the prompt has it), the format's mark, or text up to it.
    `control` gives the ids of control tokens.
    """
    if call_format in PARAMETER_TAG_FORMATS:
        return _markup_answer(PARAMETER_TAG_FORMATS[call_format], functions, parallel, lead)
    if call_format in SECTION_FORMATS:
        return _section_answer(SECTION_FORMATS[call_format], functions, parallel, control, lead)
    if call_format == "list":
        before, key, after, between = '{"name": ', "arguments", "}", '", "'
    elif call_format == "named":
        before, key, after, between = "", "", "", _mark(control, TOOL_CALLS_TOKEN)
    elif call_format == "bare":
        before, key, after, between = '{"name": ', "parameters", "}", ""
    else:
        before, key, after, between = (
            '\n{"name": ',
            "arguments",
            f"}}\n{CLOSE_TAG}",
            json.dumps(f"\n{OPEN_TAG}"),
        )
    rules = []
    for number, each in enumerate(functions):
        head = f"{before}{json.dumps(each['name'])}, {json.dumps(key)}: "
        begin = (
            f"{json.dumps(each['name'])} {_mark(control, ARGS_TOKEN)}"
            if call_format == "named"
            else json.dumps(head)
        )
        rules.append(f"call_{number}: {begin} arguments_{number} {json.dumps(after) if after else ''}")
        rules.append(each["parameters"].rules(f"arguments_{number}"))
    one = " | ".join(f"call_{number}" for number in range(len(functions)))
    more = f" ({between} call){{0,{MAX_CALLS - 1}}}" if parallel and call_format != "bare" else ""
    start, end = ('"["', '"]"') if call_format == "list" else ("", "")
    if call_format not in ("list", "named", "bare"):
        start = "before" if lead == "text" else json.dumps(OPEN_TAG)
        rules += [f"before[suffix={json.dumps(OPEN_TAG)}]: /(?s:.*)/"] if lead == "text" else []
    elif call_format != "bare" and lead != "none":
        said = "SAID? " if lead == "text" and control(TOOL_CALLS_TOKEN) is not None else ""
        start = f"{said}{_mark(control, TOOL_CALLS_TOKEN)} {start}"
        rules += ["SAID: /(?s:.+)/"] if said else []
    return "\n".join([f"calls: {start} call{more} {end}", f"call: {one}", *rules])


def _markup_answer(
    markup: ParameterTagFormat, functions: Sequence[dict[str, Any]], parallel: bool, lead: Lead
) -> str:
    more = f" ({json.dumps(chr(10) + markup.open)} call){{0,{MAX_CALLS - 1}}}" if parallel else ""
    start = "before" if lead == "text" else json.dumps(markup.open)
    before = [f"before[suffix={json.dumps(markup.open)}]: /(?s:.*)/"] if lead == "text" else []
    return "\n".join([*parameter_tag_rules(markup, functions, more, start), *before])


def _section_answer(
    section: SectionFormat,
    functions: Sequence[dict[str, Any]],
    parallel: bool,
    control: Callable[[str], int | None],
    lead: Lead,
) -> str:
    def marks(text: str) -> str:
        return " ".join(_mark(control, part) for part in section.parts(text))

    rules = []
    for number, each in enumerate(functions):
        place = '":" /[0-9]{1,2}/ ' if section.numbered else ""
        head = f"{marks(section.call + section.head + each['name'])} {place}{marks(section.middle)}"
        rules.append(f"call_{number}: {head} arguments_{number} {marks(section.tail)}")
        rules.append(each["parameters"].rules(f"arguments_{number}"))
    one = " | ".join(f"call_{number}" for number in range(len(functions)))
    between = '"\\n"? ' if section.tail.startswith("\n") else ""
    more = f" ({between}call){{0,{MAX_CALLS - 1}}}" if parallel else ""
    said = "before " if lead == "text" else ""
    rules += (
        ["before: BEFORE?", f"BEFORE: /(?s:.+)/ & ~/(?s:.*){_escaped(section.begin)}(?s:.*)/"] if said else []
    )
    return "\n".join(
        [f"calls: {said}{marks(section.begin)} call{more} {marks(section.end)}", f"call: {one}", *rules]
    )


def call_prefix_token(call_format: CallFormat) -> str | None:
    """A control token before calls, which belongs to the prompt where a call is required."""
    return TOOL_CALLS_TOKEN if call_format in ("list", "named") else None


def _mark(control: Callable[[str], int | None], text: str) -> str:
    """A control token, by its id if it has one."""
    return f"<[{found}]>" if (found := control(text)) is not None else json.dumps(text)


def _escaped(text: str) -> str:
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):X}}}" for character in text)
