"""Conversations as people and programs give them: checked, and rebuilt of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from newleaf.errors import InputError

Message = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# Names under which programs pass on what a model thought. Templates read one or another of them.
REASONING = ("reasoning_content", "thinking", "reasoning")


def check_messages(messages: Any) -> list[Message]:
    """The messages, copied, without fields that are None. Raises InputError naming the message and the field.

    A message is a mapping with a `role` and a `content`, which is text or a list of parts {"type": "text",
    "text": …}; an assistant's may have `tool_calls` in place of a content.
    """
    if isinstance(messages, Mapping | str) or not isinstance(messages, Sequence):
        raise InputError(f"messages: must be a list of messages, not {_kind(messages)}")
    if not messages:
        raise InputError("messages: is empty; a conversation has at least one message")
    return [_checked(message, f"messages[{number}]") for number, message in enumerate(messages)]


def with_reasoning(message: Message) -> Message:
    """The message with its reasoning under the names that templates look for."""
    found = next((message[name] for name in REASONING if name in message), None)
    return message if found is None else {"thinking": found, **message, "reasoning_content": found}


def contents(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The texts that a rendered conversation holds at least: templates trim white space, and may leave out
    what the assistant thought."""
    for message in messages:
        content = message.get("content")
        if message.get("role") == "assistant" or content is None:
            continue
        parts = (
            [content]
            if isinstance(content, str)
            else [part.get("text") for part in content if isinstance(part, Mapping)]
        )
        yield from (part.strip() for part in parts if isinstance(part, str))


def as_json_values(value: Any, where: str) -> Any:
    """A copy made of what JSON holds. Raises InputError for anything else."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(name): as_json_values(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [as_json_values(item, f"{where}[{number}]") for number, item in enumerate(value)]
    raise InputError(f"{where}: must be text, a number, a list or a mapping, not {_kind(value)}")


def _checked(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InputError(f"{where}: must be a mapping with role and content, not {_kind(message)}")
    found: Message = {
        name: value for name, value in as_json_values(message, where).items() if value is not None
    }
    role = found.get("role")
    if role not in ROLES:
        raise InputError(
            f"{where}.role: "
            + ("is missing" if role is None else f"{role!r} is not one of {', '.join(ROLES)}")
        )
    content = found.get("content")
    if content is None:
        if role != "assistant" or not (found.get("tool_calls") or any(name in found for name in REASONING)):
            raise InputError(f"{where}.content: is missing")
    elif isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(part, f"{where}.content[{number}]")
    elif not isinstance(content, str):
        raise InputError(f"{where}.content: must be text or a list of text parts, not {_kind(content)}")
    return found


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, dict) or part.get("type") != "text":
        kind = repr(part["type"]) if isinstance(part, dict) and "type" in part else _kind(part)
        raise InputError(
            f"{where}: must be a text part such as {{'type': 'text', 'text': 'Hello'}}, not {kind}"
        )
    if not isinstance(part.get("text"), str):
        raise InputError(f"{where}.text: must be text, not {_kind(part.get('text'))}")


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
