"""The shapes in which people keep conversations (OpenAI's, ShareGPT's, Alpaca's, pairs), told by their fields
and brought into one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.text.messages import REASONING, Message, as_json_values, check_messages

Row = Mapping[str, Any]
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool": "tool",
}
CALLS = ("function_call", "tool_call")
TEXTS = ("text", "document", "article", "dialogue")


@dataclass(frozen=True)
class Conversation:
    """A conversation with its place (file:line).

    `learned` says of each message whether it is to be learned, should the assistant have said it;
    `references` are other good last answers, for measuring; `process_logits` names the row's shape.
    """

    where: str
    messages: list[Message]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    learned: tuple[bool, ...] = ()
    references: tuple[str, ...] = ()
    shape: str = ""

    def said_by_assistant(self) -> list[int]:
        """The numbers of the assistant's messages that are to be learned."""
        wanted = self.learned or (True,) * len(self.messages)
        return [
            number
            for number, message in enumerate(self.messages)
            if message["role"] == "assistant" and wanted[number]
        ]


@dataclass(frozen=True)
class Shape:
    """A way to write a conversation into a row; `fields` are those that tell it."""

    name: str
    fields: tuple[str, ...]
    messages: Callable[[Row], list[Any]]
    references: Callable[[Row], list[str]] = field(default=lambda row: [])

    def fits(self, row: Row) -> bool:
        return all(row.get(name) is not None for name in self.fields)


def to_conversation(row: Any, where: str, system: str | None = None) -> Conversation:
    """A row of any known shape.

    A `system` message is put before conversations that have none. Raises InputError with the place.
    """
    try:
        return _conversation(row, where, system)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _conversation(row: Any, where: str, system: str | None) -> Conversation:
    shape = _shape_of(row)
    given, own_tools = _without_tools(shape.messages(row))
    messages = checked(given)
    if system is not None and messages[0]["role"] not in ("system", "developer"):
        messages.insert(0, {"role": "system", "content": system})
    learned = tuple(bool(message.pop("weight", 1)) for message in messages)
    tools, documents = listed(row, "tools"), listed(row, "documents")
    if tools and own_tools and tools != own_tools:
        raise InputError("tools: the row and its system message name different ones; give them once")
    tools = tools or own_tools
    references = tuple(str(text) for text in shape.references(row))
    return Conversation(where, messages, tools, documents, learned, references, shape.name)


def _shape_of(row: Any) -> Shape:
    if not isinstance(row, Mapping):
        raise InputError("must be a JSON object")
    found = next((shape for shape in SHAPES if shape.fits(row)), None)
    if found is None:
        known = "; ".join(f"{shape.name}: {', '.join(shape.fields)}" for shape in SHAPES)
        raise InputError(
            f"no conversation; it has the fields {', '.join(map(str, row)) or 'none'}, and known are {known}"
        )
    return found


def _without_tools(messages: Any) -> tuple[Any, list[Any] | None]:
    """The messages, and the tools that one of them names: minimind's rows have them in the system message.

    Calls that are written as JSON text are read.
    """
    if not isinstance(messages, list) or not all(isinstance(message, Mapping) for message in messages):
        return messages, None
    tools: list[Any] | None = None
    found: list[Any] = []
    for number, message in enumerate(messages):
        kept = {name: value for name, value in message.items() if name != "tools"}
        try:
            tools = listed(message, "tools") or tools
            if "tool_calls" in kept:
                kept["tool_calls"] = [_wrapped(call) for call in listed(message, "tool_calls") or ()]
        except InputError as error:
            raise InputError(f"messages[{number}].{error}") from None
        found.append({name: value for name, value in kept.items() if name != "tool_calls" or value})
    return found, tools


def _wrapped(call: Any) -> Any:
    """A call as OpenAI writes it; some rows have the function's name and arguments alone."""
    bare = isinstance(call, Mapping) and "name" in call and "function" not in call
    return {"type": "function", "function": dict(call)} if bare else call


def checked(messages: Any) -> list[Message]:
    """The messages, of known roles and none of them empty. Raises InputError naming the message."""
    found = check_messages(messages)
    for number, message in enumerate(found):
        content = message.get("content")
        said = content if isinstance(content, str) else "".join(part["text"] for part in content or ())
        more = message.get("tool_calls") or any(message.get(name) for name in REASONING)
        # a tool may well find nothing
        if not said.strip() and not more and message["role"] not in ("tool", "function"):
            raise InputError(f"messages[{number}].content: is empty")
        for call in message.get("tool_calls") or ():
            _read_arguments(call)
    return found


def _read_arguments(call: Any) -> None:
    """OpenAI writes a call's arguments as JSON text; templates want the values."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(function["arguments"])
        except ValueError:
            raise InputError(
                f"tool_calls: the arguments of {function.get('name')!r} are not valid JSON"
            ) from None


def as_messages(value: Any, role: str, name: str) -> list[Any]:
    """Text of this role, or messages as they are."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise InputError(f"{name}: must be text or messages")
    return list(value)


def listed(row: Row, name: str) -> list[Any] | None:
    """A list of the row, also where it is written as JSON text."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise InputError(f"{name}: is not valid JSON") from None
    if not value:
        return None
    if not isinstance(value, list):
        raise InputError(f"{name}: must be a list")
    return list(as_json_values(value, name))


def _sharegpt(row: Row) -> list[Any]:
    turns = row["conversations"]
    if not isinstance(turns, list):
        raise InputError("conversations: must be a list")
    system = row.get("system")
    found: list[Any] = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return found + [_turn(turn, f"conversations[{number}]") for number, turn in enumerate(turns)]


def _turn(turn: Any, where: str) -> Any:
    if not isinstance(turn, Mapping):
        raise InputError(f"{where}: must be an object with from and value")
    if "from" not in turn:
        return turn
    speaker, value = turn["from"], turn.get("value")
    if speaker not in SPEAKERS:
        raise InputError(f"{where}.from: {speaker!r} is not one of {', '.join(SPEAKERS)}")
    if not isinstance(value, str):
        raise InputError(f"{where}.value: must be text")
    if speaker not in CALLS:
        return {"role": SPEAKERS[speaker], "content": value}
    try:
        calls = json.loads(value)
    except ValueError:
        raise InputError(f"{where}.value: a {speaker} must be valid JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }


def _alpaca(row: Row) -> list[Any]:
    found: list[Any] = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for pair in row.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError("history: must be a list of [question, answer] pairs")
        found += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    given = row.get("input")
    asked = (
        f"{row['instruction']}\n\n{given}" if isinstance(given, str) and given.strip() else row["instruction"]
    )
    return [*found, {"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]


def _pair(asked: str, answered: str) -> Callable[[Row], list[Any]]:
    def both(row: Row) -> list[Any]:
        return [*as_messages(row[asked], "user", asked), *as_messages(row[answered], "assistant", answered)]

    return both


def _first_reference(row: Row) -> list[Any]:
    return [
        *as_messages(row["prompt"], "user", "prompt"),
        {"role": "assistant", "content": _references(row)[0]},
    ]


def _references(row: Row) -> list[str]:
    found = row["references"]
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise InputError("references: must be a list of texts")
    return found


SHAPES = (
    Shape("OpenAI's", ("messages",), lambda row: row["messages"]),
    Shape("ShareGPT's", ("conversations",), _sharegpt),
    Shape("Alpaca's", ("instruction", "output"), _alpaca),
    Shape("prompt and completion", ("prompt", "completion"), _pair("prompt", "completion")),
    Shape("prompt and response", ("prompt", "response"), _pair("prompt", "response")),
    Shape("prompt and references", ("prompt", "references"), _first_reference, _references),
    Shape("question and answer", ("question", "answer"), _pair("question", "answer")),
    *(Shape(f"{name} and summary", (name, "summary"), _pair(name, "summary")) for name in TEXTS),
)
