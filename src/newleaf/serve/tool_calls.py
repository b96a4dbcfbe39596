"""Calls of tools in what a model writes: found while it comes, in the form that the model's chat template teaches."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from newleaf.text.reasoning import CHANNEL, MESSAGE, Part, held_start

Form = Literal["tags", "list", "bare", "harmony", "own"]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
LIST, ARGUMENTS, PYTHON, CONSTRAIN = "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|constrain|>"


@dataclass(frozen=True)
class Call:
    """A function's name and its arguments as JSON."""

    name: str
    arguments: str


def form_of(source: str) -> Form:
    """How a model with this chat template calls tools; "own" for a template that has none, which is told of our form."""
    if CHANNEL in source and MESSAGE in source and re.search(r"\btools\b", source):
        return "harmony"
    if not re.search(r"\btools\b", source):
        return "own"
    if OPEN in source:
        return "tags"
    return "list" if LIST in source else "bare"


def marks_of(form: Form) -> tuple[str, ...]:
    """Control tokens that have to be seen in the text for calls to be found in it."""
    return {"tags": (OPEN, CLOSE), "own": (), "list": (LIST, ARGUMENTS), "bare": (PYTHON,), "harmony": (CONSTRAIN,)}[form]


class Reader(Protocol):
    """Takes an answer's text in parts and gives back text and calls, as soon as each is certain."""

    def push(self, part: Part) -> list[Part | Call]:
        """What this part makes certain."""

    def finish(self) -> list[Part | Call]:
        """What was held back."""


def reader(form: Form | None, names: Collection[str]) -> Reader:
    """For one answer; without a form, all is text."""
    match form:
        case None:
            return TextReader()
        case "tags" | "own":
            return TagReader(names)
        case "harmony":
            return HarmonyReader(names)
        case _:
            return WholeReader(names, LIST if form == "list" else None)


class TextReader:
    """Looks for no calls."""

    def push(self, part: Part) -> list[Part | Call]:
        return [part]

    def finish(self) -> list[Part | Call]:
        return []


class TagReader:
    """Calls between tags, each a JSON object. White space around them is not text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._held, self._inside, self._called = names, "", False, False

    def push(self, part: Part) -> list[Part | Call]:
        if part.kind != "content":
            return [part]
        self._held += part.text
        found: list[Part | Call] = []
        while True:
            if self._inside:
                body, closed, rest = self._held.partition(CLOSE)
                if not closed:
                    return found
                found += self._read(body, OPEN + body + CLOSE)
                self._held, self._inside = rest, False
            else:
                before, opened, rest = self._held.partition(OPEN)
                if not opened:
                    return found + self._certain()
                found += self._text(before.rstrip())
                self._held, self._inside = rest, True

    def finish(self) -> list[Part | Call]:
        held, self._held = self._held, ""
        if self._inside:
            return self._read(held, OPEN + held)
        return self._text(held.rstrip() if self._called else held)

    def _certain(self) -> list[Part | Call]:
        keep = len(self._held) - held_start(self._held, (OPEN,))
        keep = len(self._held[:keep].rstrip())
        text, self._held = self._held[:keep], self._held[keep:]
        return self._text(text)

    def _text(self, text: str) -> list[Part | Call]:
        text = text.lstrip() if self._called else text
        return [Part("content", text)] if text else []

    def _read(self, body: str, raw: str) -> list[Part | Call]:
        calls = read_calls(body, self._names)
        self._called = self._called or bool(calls)
        return list(calls) if calls else [Part("content", raw)]


class WholeReader:
    """Calls that are all of the answer: JSON from its first character on, or after a mark."""

    def __init__(self, names: Collection[str], mark: str | None) -> None:
        self._names, self._mark, self._held, self._text = names, mark, "", False

    def push(self, part: Part) -> list[Part | Call]:
        if part.kind != "content" or self._text:
            return [part]
        self._held += part.text
        first = self._held.lstrip()
        if self._mark is not None:
            might = self._mark.startswith(first) or first.startswith(self._mark)
        else:
            might = first[:1] in ("", "{", "[") or PYTHON.startswith(first) or first.startswith(PYTHON)
        if might:
            return []
        self._text, held, self._held = True, self._held, ""
        return [Part("content", held)]

    def finish(self) -> list[Part | Call]:
        held, self._held = self._held, ""
        body = held.strip().removeprefix(self._mark or PYTHON).strip()
        if ARGUMENTS in body:
            body = _named_list(body)
        calls = read_calls(body, self._names)
        return list(calls) if calls else [Part("content", held)] if held else []


class HarmonyReader:
    """Messages to functions, which gpt-oss writes into the channel for them."""

    def __init__(self, names: Collection[str]) -> None:
        self._names, self._name, self._body = names, "", ""

    def push(self, part: Part) -> list[Part | Call]:
        name = (part.to or "").removeprefix("functions.")
        if name == self._name and name:
            self._body += part.text
            return []
        done = self.finish()
        if not name:
            return [*done, part]
        self._name, self._body = name, part.text
        return done

    def finish(self) -> list[Part | Call]:
        name, body = self._name, self._body
        self._name, self._body = "", ""
        if not name:
            return []
        arguments = _arguments(_parsed(body))
        return [Call(name, arguments)] if name in self._names and arguments is not None else [Part("content", body)]


def read_calls(text: str, names: Collection[str]) -> list[Call]:
    """The calls that a JSON text holds, an object or a list of them; none where something about it is not a call of these functions."""
    value = _parsed(text)
    found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    return [call for call in found if call is not None] if all(call is not None for call in found) else []


def _call(value: Any, names: Collection[str]) -> Call | None:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or value.get("name") not in names:
        return None
    arguments = _arguments(value.get("arguments", value.get("parameters", {})))
    return Call(value["name"], arguments) if arguments is not None else None


def _arguments(value: Any) -> str | None:
    value = _parsed(value) if isinstance(value, str) else value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _named_list(body: str) -> str:
    """`name[ARGS]{…}`, as newer Mistral models write calls, as a list."""
    parts = [part.partition(ARGUMENTS) for part in body.split(LIST)]
    return "[" + ", ".join(f'{{"name": {json.dumps(name.strip())}, "arguments": {arguments}}}' for name, _, arguments in parts) + "]"
