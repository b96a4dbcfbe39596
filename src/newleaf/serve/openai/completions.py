"""POST /v1/completions."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.cancellation import cancel_on_disconnect
from newleaf.serve.http.event_stream import DONE, EventStream, event
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.completion_choices import ChoiceBuilder
from newleaf.serve.openai.completion_input import submit_completion
from newleaf.serve.protocol.schemas import CompletionRequest


def completions_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continues one prompt or several. `echo` with `logprobs` scores the prompt."""
        record = request.state.record
        if body.stream_options is not None and not body.stream:
            raise ApiError(
                400, "stream_options: is for when stream is true", "stream_options", "invalid_value"
            )
        loaded_model = await server_context.registry.acquire(body.model)
        record.set_model(loaded_model.name, body.user)
        try:
            texts = await server_context.threads.run(
                lambda: submit_completion(server_context, loaded_model, body)
            )
        except BaseException:
            server_context.registry.release(loaded_model)
            raise
        builder = ChoiceBuilder(body, loaded_model, texts)
        if body.stream:
            events = _completion_chunks(builder, body, record)
            end = functools.partial(server_context.finish_request, loaded_model, texts, record)
            return EventStream(events, texts.cancel, end, record, server_context.limits.stall_seconds)
        work = server_context.finish_after(loaded_model, texts, record, _completion(builder, record))
        return JSONResponse(await cancel_on_disconnect(request, work, texts.cancel))

    return routes


async def _completion_chunks(
    builder: ChoiceBuilder, body: CompletionRequest, record: Any
) -> AsyncIterator[bytes]:
    usage = body.stream_options is not None and body.stream_options.include_usage
    more = {"usage": None} if usage else {}
    for choice in await builder.echoes():
        yield event({**builder.head, "choices": [choice], **more})
    async for pieces in builder.texts.pieces():
        record.mark_first_token()
        yield b"".join(event({**builder.head, "choices": [builder.of(*each)], **more}) for each in pieces)
    last = event({**builder.head, "choices": [], "usage": builder.usage}) if usage else b""
    yield last + DONE


async def _completion(builder: ChoiceBuilder, record: Any) -> dict[str, Any]:
    choices = [
        builder.choice(index, "", (), None) for index in range(builder.count * len(builder.texts.prompts))
    ]

    def add(part: dict[str, Any]) -> None:
        choice = choices[part["index"]]
        choice["text"] += part["text"]
        choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
        if part["logprobs"] is not None:
            for name, values in part["logprobs"].items():
                choice["logprobs"][name] += values

    for part in await builder.echoes():
        add(part)
    async for pieces in builder.texts.pieces():
        record.mark_first_token()
        for each in pieces:
            add(builder.of(*each))
    return {**builder.head, "choices": choices, "usage": builder.usage}
