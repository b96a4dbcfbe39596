"""POST /v1/responses: OpenAI's newer interface, of text and tools, whole or as events."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers import Answers, Question, ask
from newleaf.serve.chat import tool_json
from newleaf.serve.edge import Record
from newleaf.serve.errors import ApiError
from newleaf.serve.hosted import Hosted
from newleaf.serve.response_items import Items
from newleaf.serve.response_schemas import CallItem, InputText, Item, MessageItem, NamedFunction, OutputItem, ReasoningItem, ResponseRequest
from newleaf.serve.response_store import ResponseStore
from newleaf.serve.routes import router
from newleaf.serve.sampling import most_tokens, sampling
from newleaf.serve.schemas import Function
from newleaf.serve.serving import Serving
from newleaf.serve.streams import EventStream, event, unless_gone
from newleaf.text.messages import Message


def responses_router(serving: Serving) -> APIRouter:
    routes, store = router(), ResponseStore()

    @routes.post("/v1/responses", response_model=None)
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """Answers a conversation. Stored responses, as all are unless store is false, are kept in memory for others to go on from."""
        record: Record = request.state.record
        messages = _before(body, store, record.key)
        question = _question(body, messages)
        hosted = await serving.registry.acquire(body.model)
        record.model, record.user = hosted.name, body.user
        try:
            options = functools.partial(_options, body, hosted, serving)
            answers = await serving.threads.run(lambda: ask(hosted, question, serving.limits, options))
        except BaseException:
            serving.registry.release(hosted)
            raise
        maker = Maker(body, hosted.name, answers, record)

        def keep(response: dict[str, Any]) -> None:
            if body.store is not False:
                store.put(response, [*messages, *_said(maker.items)], record.key)

        if body.stream:
            end = functools.partial(serving.done, hosted, answers, record)
            return EventStream(_events(maker, keep), answers.cancel, end, record, serving.limits.stall_seconds)
        whole = serving.until_done(hosted, answers, record, _whole(maker))
        response = await unless_gone(request, whole, answers.cancel)
        keep(response)
        return JSONResponse(response)

    @routes.get("/v1/responses/{id}")
    async def stored(request: Request, id: str) -> dict[str, Any]:
        found = store.get(id, request.state.record.key)
        if found is None:
            raise ApiError(404, f"there is no response {id[:80]!r}", "id", "not_found")
        return found.response

    @routes.delete("/v1/responses/{id}")
    async def delete(request: Request, id: str) -> dict[str, Any]:
        if not store.remove(id, request.state.record.key):
            raise ApiError(404, f"there is no response {id[:80]!r}", "id", "not_found")
        return {"id": id, "object": "response", "deleted": True}

    return routes


class Maker:
    """A response while it is being written."""

    def __init__(self, body: ResponseRequest, model: str, answers: Answers, record: Record) -> None:
        self.body, self.model, self.answers, self.record = body, model, answers, record
        self.items = Items()
        self.id, self.created = f"resp_{secrets.token_hex(24)}", int(time.time())

    def response(self, status: str) -> dict[str, Any]:
        body, config = self.body, self.answers.request.config
        ended = status != "in_progress"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": self.items.output if ended else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": body.store is not False,
            "temperature": config.temperature,
            "text": {"format": _format_json(body)},
            "tool_choice": body.tool_choice.model_dump() if isinstance(body.tool_choice, NamedFunction) else body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_p": config.top_p,
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    @property
    def status(self) -> str:
        return "incomplete" if self.items.end == "length" else "completed"

    def _usage(self) -> dict[str, Any]:
        read, written = self.answers.prompt_tokens, self.answers.completion_tokens
        return {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}


async def _whole(maker: Maker) -> dict[str, Any]:
    async for deltas in maker.answers.deltas():
        maker.record.wrote()
        for delta in deltas:
            maker.items.push(delta)
    maker.items.close()
    return maker.response(maker.status)


async def _events(maker: Maker, keep: Any) -> AsyncIterator[bytes]:
    number = 0

    def told(*events: dict[str, Any]) -> bytes:
        nonlocal number
        parts = []
        for each in events:
            parts.append(event({**each, "sequence_number": number}, each["type"]))
            number += 1
        return b"".join(parts)

    yield told(*({"type": f"response.{what}", "response": maker.response("in_progress")} for what in ("created", "in_progress")))
    async for deltas in maker.answers.deltas():
        maker.record.wrote()
        yield told(*(each for delta in deltas for each in maker.items.push(delta)))
    response = maker.response(maker.status)
    keep(response)
    yield told(*maker.items.close(), {"type": f"response.{maker.status}", "response": response})


def _question(body: ResponseRequest, messages: list[Message]) -> Question:
    named = isinstance(body.tool_choice, NamedFunction)
    choice = body.tool_choice.name if isinstance(body.tool_choice, NamedFunction) else body.tool_choice or "auto"
    tools = [tool_json(Function(**tool.model_dump(exclude={"type"}))) for tool in body.tools or ()]
    names = [tool["function"]["name"] for tool in tools]
    if (named and choice not in names) or (choice == "required" and not names):
        raise ApiError(400, "tool_choice: there is no such function among the tools", "tool_choice", "invalid_value")
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return Question(
        messages=[*instructions, *messages],
        tools=tools,
        choice=choice,
        named=named,
        parallel=body.parallel_tool_calls is not False,
        schema=_schema(body),
        effort=body.reasoning.effort if body.reasoning else None,
    )


def _schema(body: ResponseRequest) -> Any:
    form = body.text.format if body.text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.schema_ is None:
        raise ApiError(400, "text.format.schema: is missing", "text.format.schema", "missing_required_parameter")
    return form.schema_


def _format_json(body: ResponseRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    return form.model_dump(by_alias=True, exclude_none=True) if form is not None else {"type": "text"}


def _options(body: ResponseRequest, hosted: Hosted, serving: Serving, room: int, constraint: Mapping[str, Any]) -> SamplingConfig:
    most = most_tokens(body.max_output_tokens, room, serving.limits, "max_output_tokens", strict=False)
    return sampling(body, hosted, serving.limits, most, dict(constraint))


def _before(body: ResponseRequest, store: ResponseStore, owner: str | None) -> list[Message]:
    """The conversation that is to be answered. Raises ApiError when it should go on from a response that is not there."""
    earlier: list[Message] = []
    if body.previous_response_id is not None:
        found = store.get(body.previous_response_id, owner)
        if found is None:
            text = f"previous_response_id: there is no response {body.previous_response_id[:80]!r}"
            raise ApiError(400, text, "previous_response_id", "previous_response_not_found")
        earlier = found.messages
    if isinstance(body.input, str):
        return [*earlier, {"role": "user", "content": body.input}]
    messages = list(earlier)
    for item in body.input:
        _add(messages, item)
    return messages


def _add(messages: list[Message], item: Item) -> None:
    """Items as messages: thoughts and calls belong to one message of the assistant."""
    match item:
        case MessageItem():
            content = _text(item.content)
            if item.role == "assistant" and messages and messages[-1]["role"] == "assistant" and "content" not in messages[-1]:
                messages[-1]["content"] = content
            else:
                messages.append({"role": item.role, "content": content})
        case CallItem():
            call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
            if messages and messages[-1]["role"] == "assistant":
                messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
            else:
                messages.append({"role": "assistant", "tool_calls": [call]})
        case OutputItem():
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
        case ReasoningItem():
            if thoughts := _text(item.content or item.summary):
                messages.append({"role": "assistant", "reasoning_content": thoughts})


def _text(content: str | list[InputText]) -> str:
    return content if isinstance(content, str) else "".join(part.text or part.refusal or "" for part in content)


def _said(items: Items) -> list[Message]:
    """The output as a message of the conversation."""
    message: Message = {"role": "assistant", "content": ""}
    for item in items.output:
        if item["type"] == "message":
            message["content"] += item["content"][0]["text"]
        elif item["type"] == "reasoning":
            message["reasoning_content"] = item["content"][0]["text"]
        else:
            call = {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
            message.setdefault("tool_calls", []).append(call)
    return [message]
