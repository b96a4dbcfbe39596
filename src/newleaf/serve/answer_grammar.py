"""Grammars for whole answers: thoughts where a model has them, and then JSON, calls of tools, or free text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from newleaf.generate.constraints import SPACE
from newleaf.serve.tool_calls import CLOSE, CONSTRAIN, LIST, OPEN, Form
from newleaf.text.reasoning import CHANNEL, END, MESSAGE, START, THOUGHTS
from newleaf.text.reasoning import CLOSE as THOUGHT_ENDS
from newleaf.text.reasoning import OPEN as THOUGHT_BEGINS

Thoughts = Literal["none", "may", "inside"]
MANY = 16  # calls of one answer


def answer_grammar(thoughts: Thoughts, answers: Sequence[str]) -> str:
    """A Lark grammar, as llguidance reads it, of one of these `answers`, which the functions below make."""
    rules = [rule for answer in answers for rule in answer.splitlines()]
    names = " | ".join(answer.partition(":")[0] for answer in answers)
    if thoughts == "none":
        return "\n".join([f"start: {names}", *rules])
    begin = "" if thoughts == "inside" else f"{json.dumps(THOUGHT_BEGINS)} "
    many = "thoughts" if thoughts == "inside" else "thoughts?"
    more = [f"thoughts: {begin}thinking space", f"thinking[suffix={json.dumps(THOUGHT_ENDS)}]: /(?s:.*)/", r"space: /\s{0,4}/"]
    return "\n".join([f"start: {many} answer", f"answer: {names}", *more, *rules])


def channel_grammar(control: Callable[[str], int | None], answers: Sequence[str], functions: Sequence[dict[str, Any]]) -> str:
    """A Lark grammar of a message in gpt-oss's format (harmony): thoughts in their channel if there are any, and then one of `answers` in
    the final one, or a call of one of these functions. `control` gives the ids of control tokens."""

    def mark(text: str) -> str:
        return f"<[{found}]>" if (found := control(text)) is not None else json.dumps(text)

    names = " | ".join(answer.partition(":")[0] for answer in answers)
    channel, message = mark(CHANNEL), mark(MESSAGE)
    rules = [f'final: {channel} "final" {message} ({names})'] if answers else []
    rules += [rule for answer in answers for rule in answer.splitlines()]
    for number, each in enumerate(functions):
        head = json.dumps(f"commentary to=functions.{each['name']} ")
        rules.append(f'call_{number}: {channel} {head} {mark(CONSTRAIN)} "json" {message} arguments_{number}')
        rules.append(f"arguments_{number}: {_json(each.get('parameters') or {'type': 'object'})}")
    ways = " | ".join([*(["final"] if answers else []), *(f"call_{number}" for number in range(len(functions)))])
    thoughts = f'{channel} "{THOUGHTS}" {message} THINKING? {mark(END)} {mark(START)} "assistant"'
    return "\n".join([f"start: thoughts? ({ways})", f"thoughts: {thoughts}", "THINKING: /(?s:.+)/", *rules])


def json_answer(schema: Any) -> str:
    return f"json: {_json(schema)}"


def text_answer() -> str:
    """Any text that does not begin as a call does."""
    return f"text: TEXT?\nTEXT: /(?s:.+)/ & ~/{_escaped(OPEN)}(?s:.*)/"


def calls_answer(form: Form, functions: Sequence[dict[str, Any]], parallel: bool) -> str:
    """One call of these functions, or more where they may be `parallel`."""
    before, key, after, between = {
        "list": ('{"name": ', "arguments", "}", ", "),
        "bare": ('{"name": ', "parameters", "}", "; "),
    }.get(form, (f'{OPEN}\n{{"name": ', "arguments", f"}}\n{CLOSE}", "\n"))
    rules = []
    for number, each in enumerate(functions):
        head = f"{before}{json.dumps(each['name'])}, {json.dumps(key)}: "
        rules.append(f"call_{number}: {json.dumps(head)} arguments_{number} {json.dumps(after)}")
        rules.append(f"arguments_{number}: {_json(each.get('parameters') or {'type': 'object'})}")
    one = " | ".join(f"call_{number}" for number in range(len(functions)))
    more = f" ({json.dumps(between)} call){{0,{MANY - 1}}}" if parallel and form != "bare" else ""
    start, end = ('"["', '"]"') if form == "list" else ("", "")
    return "\n".join([f"calls: {start} call{more} {end}", f"call: {one}", *rules])


def opening(form: Form) -> str | None:
    """A control token that is written before calls, and that belongs to the prompt where calls are required."""
    return LIST if form == "list" else None


def _json(schema: Any) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": SPACE}})


def _escaped(text: str) -> str:
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):X}}}" for character in text)
