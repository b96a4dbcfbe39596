"""The input of a response as messages: its items and those of stored responses."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from typing import Any

from pydantic import TypeAdapter

from newleaf.serve.api_errors import ApiError
from newleaf.serve.openai.response_store import ResponseStore
from newleaf.serve.protocol.response_schemas import (
    CustomToolCallItem,
    FunctionCallItem,
    InputText,
    Item,
    MessageItem,
    ReasoningItem,
    ReferenceItem,
    ResponseRequest,
    ToolOutputItem,
)
from newleaf.text.messages import Message

ITEM_ADAPTER: TypeAdapter[Item] = TypeAdapter(Item)
REASONING_PREFIX = "newleaf:"  # of reasoning that this server encoded


def conversation(
    body: ResponseRequest, store: ResponseStore, owner: str | None
) -> tuple[list[Message], list[dict[str, Any]]]:
    """The messages to answer, and the request's items as they are listed afterwards.

    Raises ApiError for a previous response or an item that is not stored.
    """
    messages: list[Message] = []
    if body.previous_response_id is not None:
        found = store.get(body.previous_response_id, owner)
        if found is None:
            text = f"previous_response_id: there is no response {body.previous_response_id[:80]!r}"
            raise ApiError(400, text, "previous_response_id", "previous_response_not_found")
        messages += found.messages
    items = [MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    listed = []
    for number, item in enumerate(items):
        if isinstance(item, ReferenceItem):
            item = _referred(item.id, number, store, owner)
        _add(messages, item)
        listed.append(_listed(item))
    return messages, listed


def assistant_messages(output: list[dict[str, Any]]) -> list[Message]:
    """The output of a response as messages."""
    message: Message = {"role": "assistant", "content": ""}
    for item in output:
        if item["type"] == "message":
            message["content"] += item["content"][0]["text"]
        elif item["type"] == "reasoning":
            message["reasoning_content"] = item["content"][0]["text"]
        else:
            message.setdefault("tool_calls", []).append(
                _call(item["call_id"], item["name"], item["arguments"])
            )
    return [message]


def encode_reasoning(thoughts: str) -> str:
    """Reasoning for clients that send back `encrypted_content`.

    It is encoded, not encrypted: `content` has it too.
    """
    return REASONING_PREFIX + base64.urlsafe_b64encode(thoughts.encode("utf-8", "replace")).decode()


def _decode_reasoning(content: str | None) -> str:
    """What `encode_reasoning` encoded; empty for other services' content."""
    if content is None or not content.startswith(REASONING_PREFIX):
        return ""
    try:
        return base64.urlsafe_b64decode(content.removeprefix(REASONING_PREFIX)).decode()
    except (binascii.Error, ValueError):
        return ""


def _referred(id_: str, number: int, store: ResponseStore, owner: str | None) -> Item:
    found = store.item(id_, owner)
    if found is None:
        name = f"input[{number}].id"
        raise ApiError(
            400, f"{name}: there is no item {id_[:80]!r} in a stored response", name, "invalid_value"
        )
    return ITEM_ADAPTER.validate_python(found)


def _add(messages: list[Message], item: Item) -> None:
    """Append an item: reasoning and calls belong to one assistant message."""
    match item:
        case MessageItem():
            content = _text(item.content)
            if (
                item.role == "assistant"
                and messages
                and messages[-1]["role"] == "assistant"
                and "content" not in messages[-1]
            ):
                messages[-1] = {**messages[-1], "content": content}
            else:
                messages.append({"role": item.role, "content": content})
        case FunctionCallItem() | CustomToolCallItem():
            written = (
                item.arguments
                if isinstance(item, FunctionCallItem)
                else json.dumps({"input": item.input}, ensure_ascii=False)
            )
            call = _call(item.call_id, item.name, written)
            if messages and messages[-1]["role"] == "assistant":
                messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
            else:
                messages.append({"role": "assistant", "tool_calls": [call]})
        case ToolOutputItem():
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        case ReasoningItem():
            if (
                thoughts := _text(item.content or [])
                or _decode_reasoning(item.encrypted_content)
                or _text(item.summary)
            ):
                messages.append({"role": "assistant", "reasoning_content": thoughts})


def _call(id_: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def _text(content: str | list[InputText]) -> str:
    return (
        content if isinstance(content, str) else "".join(part.text or part.refusal or "" for part in content)
    )


def _listed(item: Item) -> dict[str, Any]:
    """An input item as GET …/input_items returns it: with an id, a status, and text as a list of parts."""
    found = item.model_dump(exclude_none=True)
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        more: dict[str, Any] = {"annotations": []} if item.role == "assistant" else {}
        found["content"] = [{"type": kind, "text": item.content, **more}]
    return {"id": f"msg_{secrets.token_hex(12)}", "status": "completed", **found}
