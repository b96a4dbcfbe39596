"""Tools in the prompt, for models whose chat template has no place for them; past calls as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from newleaf.serve.tool_calls.tool_call import CLOSE_TAG, OPEN_TAG, has_utf8
from newleaf.text.messages import Message

INSTRUCTIONS = (
    "You can call functions. To call one, write nothing but its name and arguments as JSON, between these "
    "tags:\n"
    f"{OPEN_TAG}\n"
    '{"name": "function_name", "arguments": {"parameter": "value"}}\n'
    f"{CLOSE_TAG}\n"
    "To call several, write one such block after another. What they return is given to you afterwards. "
    "The functions are:\n"
)


def add_tools(messages: Sequence[Message], tools: Sequence[Any], role: str = "system") -> list[Message]:
    """The conversation with the tools in its first message.

    That is the system message or, for templates without one, the user's.
    """
    about = INSTRUCTIONS + "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    first, *rest = messages
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{text_of(first)}\n\n{about}"}, *rest]
    if first["role"] == role:
        return [{**first, "content": f"{about}\n\n{text_of(first)}"}, *rest]
    return [{"role": "system", "content": about}, *messages]


def calls_as_text(messages: Sequence[Message]) -> list[Message]:
    """Calls and results as text of assistant and user; consecutive results are one message."""
    found: list[Message] = []
    for message in messages:
        if message["role"] in ("tool", "function"):
            text = f"<tool_response>\n{text_of(message)}\n</tool_response>"
            if found and found[-1].get("results"):
                found[-1]["content"] += f"\n{text}"
            else:
                found.append({"role": "user", "content": text, "results": True})
        elif message.get("tool_calls"):
            calls = [_call(call["function"]) for call in message["tool_calls"]]
            said = [text_of(message)] if message.get("content") else []
            kept = {name: value for name, value in message.items() if name not in ("tool_calls", "content")}
            found.append({**kept, "content": "\n".join([*said, *calls])})
        else:
            found.append(message)
    return [{name: value for name, value in message.items() if name != "results"} for message in found]


def parse_arguments(messages: Sequence[Message]) -> list[Message]:
    """Arguments of past calls as values, as templates expect; OpenAI's messages have them as JSON."""

    def parsed(call: Any) -> Any:
        try:
            arguments = json.loads(call["function"]["arguments"])
            # An unpaired surrogate cannot be encoded; its JSON escape can.
            if not has_utf8(json.dumps(arguments, ensure_ascii=False)):
                return call
        except (ValueError, RecursionError):
            return call
        return {**call, "function": {**call["function"], "arguments": arguments}}

    return [
        {**message, "tool_calls": [parsed(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def text_of(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _call(function: Any) -> str:
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = function["arguments"]
    value = {"name": function["name"], "arguments": arguments}
    text = json.dumps(value, ensure_ascii=False)
    return f"{OPEN_TAG}\n{text if has_utf8(text) else json.dumps(value)}\n{CLOSE_TAG}"
