"""Builds a response and the events of its stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from newleaf.serve.answers.chat_answers import ChatAnswers
from newleaf.serve.answers.usage import response_usage
from newleaf.serve.http.event_stream import event
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.openai.response_items import ResponseItems
from newleaf.serve.protocol.response_schemas import ResponseRequest

# Supported values of `include`.
LOGPROBS, ENCRYPTED_REASONING = "message.output_text.logprobs", "reasoning.encrypted_content"


def included(body: ResponseRequest) -> set[str]:
    """What the request wants included, of what is supported."""
    found = {each for each in body.include or () if each in (LOGPROBS, ENCRYPTED_REASONING)}
    return found | ({LOGPROBS} if body.top_logprobs else set())


class ResponseBuilder:
    """Builds one response."""

    def __init__(
        self, body: ResponseRequest, model: str, answers: ChatAnswers, record: RequestRecord
    ) -> None:
        self.body, self.model, self.answers, self.record = body, model, answers, record
        self.items = ResponseItems(
            answers.tokenizer, LOGPROBS in included(body), ENCRYPTED_REASONING in included(body)
        )
        self.number = 0  # of the next event
        self.error: dict[str, Any] | None = None
        self.id, self.created = f"resp_{secrets.token_hex(24)}", int(time.time())

    def response(self, status: str) -> dict[str, Any]:
        body, config = self.body, self.answers.request.config
        ended = status != "in_progress"
        return {
            "id": self.id,
            "object": "response",
            "background": False,
            "created_at": self.created,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": self.error,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": self.items.output if ended else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": config.temperature,
            "text": {"format": _format_json(body)},
            "tool_choice": body.tool_choice.model_dump()
            if isinstance(body.tool_choice, BaseModel)
            else body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p if body.top_p == 0 else config.top_p,
            "truncation": body.truncation or "disabled",
            "usage": response_usage(self.answers) if ended else None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def numbered_events(self, *events: dict[str, Any]) -> bytes:
        """Events with their sequence numbers."""
        numbered = [{**each, "sequence_number": self.number + more} for more, each in enumerate(events)]
        self.number += len(events)
        return b"".join(event(each, each["type"]) for each in numbered)

    def failed(self, body: dict[str, Any]) -> bytes:
        """The last events of a response that failed, as in OpenAI's reference."""
        error = body["error"]
        self.error = {"code": "server_error", "message": error["message"]}
        last = {"type": "error", "code": error["code"], "message": error["message"], "param": error["param"]}
        return self.numbered_events(
            last, *self.items.break_off(), {"type": "response.failed", "response": self.response("failed")}
        )

    @property
    def status(self) -> str:
        return "incomplete" if self.items.end == "length" else "completed"


async def full_response(builder: ResponseBuilder) -> dict[str, Any]:
    async for deltas in builder.answers.deltas():
        builder.record.mark_first_token()
        for delta in deltas:
            builder.items.push(delta)
    builder.items.close()
    return builder.response(builder.status)


async def response_events(
    builder: ResponseBuilder, keep: Callable[[dict[str, Any]], Awaitable[None]]
) -> AsyncIterator[bytes]:
    begin = (
        {"type": f"response.{what}", "response": builder.response("in_progress")}
        for what in ("created", "in_progress")
    )
    yield builder.numbered_events(*begin)
    async for deltas in builder.answers.deltas(stream_calls=True):
        builder.record.mark_first_token()
        yield builder.numbered_events(*(each for delta in deltas for each in builder.items.push(delta)))
    response = builder.response(builder.status)
    await keep(response)
    yield builder.numbered_events(
        *builder.items.close(), {"type": f"response.{builder.status}", "response": response}
    )


def _format_json(body: ResponseRequest) -> dict[str, Any]:
    form = body.text.format if body.text else None
    return form.model_dump(by_alias=True, exclude_none=True) if form is not None else {"type": "text"}
