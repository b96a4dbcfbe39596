"""Pairs of answers of which one is preferred: TRL's, OpenAI's and the implicit shape, brought into one and
checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from newleaf.errors import InputError
from newleaf.text.messages import Message
from newleaf.tune.conversations.conversation_formats import Conversation, as_messages, checked, listed

KNOWN = (
    "prompt, chosen, rejected; or chosen and rejected as whole conversations; or input, "
    "preferred_output, non_preferred_output"
)


@dataclass(frozen=True)
class Pair:
    """Two conversations that differ only in how they end; of each, what comes after the prompt is judged."""

    where: str
    chosen: Conversation
    rejected: Conversation
    shape: str


def to_pair(row: Any, where: str, system: str | None = None) -> Pair:
    """A row of any known shape. Raises InputError with the place, also for answers that are the same."""
    try:
        return _pair(row, where, system)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _pair(row: Any, where: str, system: str | None) -> Pair:
    if not isinstance(row, Mapping):
        raise InputError("must be a JSON object")
    shape, prompt, chosen, rejected = _parts(row)
    if chosen == rejected:
        raise InputError("chosen and rejected are the same, so there is nothing to prefer")
    if system is not None and prompt and prompt[0].get("role") not in ("system", "developer"):
        prompt = [{"role": "system", "content": system}, *prompt]
    tools = listed(row, "tools")
    sides = []
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        try:
            messages = checked([*prompt, *answer])
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if messages[-1]["role"] != "assistant":
            raise InputError(
                f"{name}: must end with an answer of the assistant, not of {messages[-1]['role']}"
            )
        learned = tuple(number >= len(prompt) for number in range(len(messages)))
        sides.append(Conversation(where, messages, tools, None, learned, (), shape))
    return Pair(where, sides[0], sides[1], shape)


def _parts(row: Mapping[str, Any]) -> tuple[str, list[Message], list[Message], list[Message]]:
    """The shape's name, the prompt and both endings."""
    if {"input", "preferred_output", "non_preferred_output"} <= row.keys():
        asked = row["input"]
        if not isinstance(asked, Mapping) or not isinstance(asked.get("messages"), list):
            raise InputError("input: must be an object with messages")
        good, bad = (
            as_messages(row[name], "assistant", name) for name in ("preferred_output", "non_preferred_output")
        )
        return "OpenAI's preferences", list(asked["messages"]), good, bad
    if not {"chosen", "rejected"} <= row.keys():
        raise InputError(
            f"no pair; it has the fields {', '.join(map(str, row)) or 'none'}, and known are {KNOWN}"
        )
    chosen, rejected = (as_messages(row[name], "assistant", name) for name in ("chosen", "rejected"))
    prompt = as_messages(row["prompt"], "user", "prompt") if row.get("prompt") is not None else []
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if chosen == rejected:
        shared = len(chosen) - 1
    if prompt and not shared:
        return "prompt, chosen and rejected", prompt, chosen, rejected
    if not shared:
        raise InputError("chosen and rejected have no beginning in common; give a prompt")
    return "chosen and rejected conversations", chosen[:shared], chosen[shared:], rejected[shared:]
