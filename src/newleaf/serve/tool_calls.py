"""Calls of tools, in the forms that chat templates teach their models."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from newleaf.text.reasoning import CHANNEL, MESSAGE

Form = Literal["tags", "list", "named", "bare", "harmony", "own"]
OPEN, CLOSE = "<tool_call>", "</tool_call>"
LIST, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
PYTHON, CONSTRAIN = "<|python_tag|>", "<|constrain|>"


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
    if LIST not in source:
        return "bare"
    return "named" if ARGUMENTS in source else "list"


def marks_of(form: Form) -> tuple[str, ...]:
    """Control tokens that have to be seen in the text for calls to be found in it."""
    listed = (LIST, ARGUMENTS, CALL_ID)
    return {"tags": (OPEN, CLOSE), "own": (), "list": listed, "named": listed, "bare": (PYTHON,), "harmony": (CONSTRAIN,)}[form]


def read_calls(text: str, names: Collection[str]) -> list[Call]:
    """The calls that a JSON text holds, an object or a list of them; none where something about it is not a call of these functions."""
    value = parsed(text)
    found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    return [call for call in found if call is not None] if all(call is not None for call in found) else []


def _call(value: Any, names: Collection[str]) -> Call | None:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or value.get("name") not in names:
        return None
    arguments = arguments_json(value.get("arguments", value.get("parameters", {})))
    return Call(value["name"], arguments) if arguments is not None else None


def arguments_json(value: Any) -> str | None:
    """Arguments as JSON text: an object, or one in a text. A function without any may be given null."""
    value = parsed(value) if isinstance(value, str) else {} if value is None else value
    if not isinstance(value, dict):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # 1e999 is no number
        return None
    return text if text.isascii() or whole(text) else json.dumps(value)


def parsed(text: str) -> Any:
    """A JSON text's value; None for what is none. Line ends within strings, which models write, are taken."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def whole(text: str) -> bool:
    """Whether it has UTF-8: half a surrogate pair has none."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
