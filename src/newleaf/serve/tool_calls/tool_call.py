"""Tool calls: their formats in chat templates, the parsed parts, and the parsers' interface."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from newleaf.text.reasoning import CHANNEL, MESSAGE, Part

CallFormat = Literal[
    "tags",
    "list",
    "named",
    "bare",
    "harmony",
    "own",
    "qwen",
    "seed",
    "glm",
    "minimax",
    "deepseek-v3",
    "deepseek-v3.1",
    "kimi",
]
OPEN_TAG, CLOSE_TAG = "<tool_call>", "</tool_call>"
TOOL_CALLS_TOKEN, ARGS_TOKEN, CALL_ID_TOKEN = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
PYTHON_TOKEN, CONSTRAIN_TOKEN = "<|python_tag|>", "<|constrain|>"
DEEPSEEK_TOKENS = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
KIMI_TOKENS = (
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
)
# Control tokens of formats with parameter tags (parameter_tags.py) and with sections (sections.py).
FORMAT_TOKENS: dict[str, tuple[str, ...]] = {
    "qwen": (OPEN_TAG, CLOSE_TAG),
    "seed": ("<seed:tool_call>", "</seed:tool_call>"),
    "glm": (OPEN_TAG, CLOSE_TAG, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "minimax": ("<minimax:tool_call>", "</minimax:tool_call>"),
    "deepseek-v3": DEEPSEEK_TOKENS,
    "deepseek-v3.1": DEEPSEEK_TOKENS,
    "kimi": KIMI_TOKENS,
}


@dataclass(frozen=True)
class ToolCall:
    """A function's name and its arguments as JSON; `written` is the text that was parsed."""

    name: str
    arguments: str
    written: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class ToolCallStart:
    """The beginning of a streamed call; its arguments follow as deltas."""

    name: str


@dataclass(frozen=True)
class ToolCallDelta:
    """A delta of a call's arguments."""

    arguments: str


@dataclass(frozen=True)
class ToolCallEnd:
    """The end of a streamed call's arguments."""


AnswerPart = Part | ToolCall | ToolCallStart | ToolCallDelta | ToolCallEnd


class ToolCallParser(Protocol):
    """A streaming parser: takes an answer's text in chunks, and returns text and calls once certain."""

    def push(self, part: Part) -> list[AnswerPart]:
        """The parts that this text completes."""

    def finish(self, cut: bool = False) -> list[AnswerPart]:
        """The rest at the end. Where the token limit `cut` the answer, an incomplete call is dropped."""

    @property
    def pending_call(self) -> tuple[str | None, str]:
        """Text that may be calls, behind their mark.

        Where the function is known, its name comes first, and the text is that of its arguments.
        """


def detect_format(source: str) -> CallFormat:
    """How a model with this chat template calls tools.

    "own" is newleaf's format, for templates without tools.
    """
    if CHANNEL in source and MESSAGE in source and re.search(r"\btools\b", source):
        return "harmony"
    if not re.search(r"\btools\b", source):
        return "own"
    if (markup := _special_format(source)) is not None:
        return markup
    if OPEN_TAG in source:
        return "tags"
    if TOOL_CALLS_TOKEN not in source:
        return "bare"
    return "named" if ARGS_TOKEN in source else "list"


def _special_format(source: str) -> CallFormat | None:
    """The format with parameter tags or sections that a template teaches."""
    if DEEPSEEK_TOKENS[1] in source:
        return "deepseek-v3" if "```json" in source else "deepseek-v3.1"
    if KIMI_TOKENS[1] in source and KIMI_TOKENS[2] in source:
        return "kimi"
    if "<minimax:tool_call>" in source:
        return "minimax"
    if "<arg_key>" in source and "<arg_value>" in source:
        return "glm"
    if "<function=" in source and "<parameter=" in source:
        return "seed" if "<seed:tool_call>" in source else "qwen"
    return None


def control_tokens(call_format: CallFormat) -> tuple[str, ...]:
    """Control tokens that have to be decoded as text for the parser."""
    listed = (TOOL_CALLS_TOKEN, ARGS_TOKEN, CALL_ID_TOKEN)
    if call_format in FORMAT_TOKENS:
        return FORMAT_TOKENS[call_format]
    return {
        "tags": (OPEN_TAG, CLOSE_TAG),
        "own": (),
        "list": listed,
        "named": listed,
        "bare": (PYTHON_TOKEN,),
        "harmony": (CONSTRAIN_TOKEN,),
    }[call_format]


def parse_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """The calls in a JSON object or list; empty where something is not a call of these functions."""
    value = parse_json(text)
    found = [_call(item, names) for item in (value if isinstance(value, list) else [value])]
    return [call for call in found if call is not None] if all(call is not None for call in found) else []


def _call(value: Any, names: Collection[str]) -> ToolCall | None:
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or value.get("name") not in names:
        return None
    arguments = arguments_json(value.get("arguments", value.get("parameters", {})))
    return ToolCall(value["name"], arguments) if arguments is not None else None


def arguments_json(value: Any) -> str | None:
    """Arguments as JSON text, from an object or its JSON. null stands for no arguments."""
    value = parse_json(value) if isinstance(value, str) else {} if value is None else value
    if not isinstance(value, dict):
        return None
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # 1e999 is no number
        return None
    return text if text.isascii() or has_utf8(text) else json.dumps(value)


def parse_json(text: str) -> Any:
    """The value of a JSON text; None for invalid JSON. Line ends within strings are accepted."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def has_utf8(text: str) -> bool:
    """Whether it can be encoded as UTF-8, which an unpaired surrogate cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
