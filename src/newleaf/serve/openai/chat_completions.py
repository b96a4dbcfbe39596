"""POST /v1/chat/completions."""

from __future__ import annotations

import functools
import secrets
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.serve.answers.chat_answers import ChatAnswers
from newleaf.serve.answers.usage import chat_usage
from newleaf.serve.http.cancellation import cancel_on_disconnect
from newleaf.serve.http.event_stream import EventStream
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.chat_chunks import chat_chunks
from newleaf.serve.openai.chat_input import submit_chat
from newleaf.serve.openai.chat_json import logprobs_json, message_json
from newleaf.serve.protocol.schemas import ChatRequest
from newleaf.serve.tool_calls.tool_call import ToolCall
from newleaf.text.reasoning import Part


def chat_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answers a conversation, as one response or as a stream of chunks."""
        record = request.state.record
        answers, loaded_model = await submit_chat(server_context, body, request)
        head = _head(loaded_model)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            if body.return_progress:
                answers.request.watch_prefill()
            events = chat_chunks(answers, loaded_model, head, usage, record)
            end = functools.partial(server_context.finish_request, loaded_model, answers, record)
            return EventStream(events, answers.cancel, end, record, server_context.limits.stall_seconds)
        work = server_context.finish_after(
            loaded_model, answers, record, _chat_completion(answers, loaded_model, head, record)
        )
        return JSONResponse(await cancel_on_disconnect(request, work, answers.cancel))

    return routes


def _head(loaded_model: LoadedModel) -> dict[str, Any]:
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": loaded_model.name,
    }
    return {**head, "system_fingerprint": loaded_model.fingerprint}


async def _chat_completion(
    answers: ChatAnswers, loaded_model: LoadedModel, head: dict[str, Any], record: Any
) -> dict[str, Any]:
    count = answers.request.config.n
    texts: list[dict[str, str]] = [{"content": "", "reasoning": ""} for _ in range(count)]
    calls: list[list[ToolCall]] = [[] for _ in range(count)]
    scores: list[list[TokenScore]] = [[] for _ in range(count)]
    finish_reasons: list[str] = ["stop"] * count
    async for deltas in answers.deltas():
        record.mark_first_token()
        for delta in deltas:
            if isinstance(delta.part, ToolCall):
                calls[delta.index].append(delta.part)
            elif isinstance(delta.part, Part):
                texts[delta.index][delta.part.kind] += delta.part.text
            scores[delta.index] += delta.scores
            finish_reasons[delta.index] = delta.end or finish_reasons[delta.index]
    with_logprobs = answers.request.config.logprobs is not None
    choices = [
        {
            "index": number,
            "message": message_json(texts[number], calls[number]),
            "logprobs": {
                "content": logprobs_json(scores[number], loaded_model.model.tokenizer),
                "refusal": None,
            }
            if with_logprobs
            else None,
            "finish_reason": finish_reasons[number],
        }
        for number in range(count)
    ]
    return {**head, "object": "chat.completion", "choices": choices, "usage": chat_usage(answers)}
