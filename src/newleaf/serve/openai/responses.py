"""POST /v1/responses, and GET and DELETE of stored responses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.answers.sampling_params import limit_max_tokens, sampling_config
from newleaf.serve.answers.start_chat import start_chat
from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.cancellation import cancel_on_disconnect
from newleaf.serve.http.event_stream import EventStream
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.response_builder import (
    ENCRYPTED_REASONING,
    LOGPROBS,
    ResponseBuilder,
    full_response,
    included,
    response_events,
)
from newleaf.serve.openai.response_input import assistant_messages, conversation
from newleaf.serve.openai.response_store import ResponseStore, StoredResponse, size_of
from newleaf.serve.protocol.response_schemas import AllowedFunctions, NamedFunction, ResponseRequest
from newleaf.serve.protocol.schemas import Function
from newleaf.serve.tool_calls.tool_choice import resolve_tool_choice, template_tool
from newleaf.text.messages import Message


def responses_router(server_context: ServerContext) -> APIRouter:
    routes, store = strict_router(), ResponseStore()

    @routes.post("/v1/responses", response_model=None)
    async def responses(body: ResponseRequest, request: Request) -> Response:
        """Answers a conversation.

        Responses are stored in memory for previous_response_id unless store is false.
        """
        record: RequestRecord = request.state.record
        record.ignored += _ignored(body)
        messages, given = conversation(body, store, record.key)
        params = _chat_params(body, messages)
        loaded_model = await server_context.registry.acquire(body.model)
        record.set_model(loaded_model.name, body.user)
        try:
            options = functools.partial(_options, body, loaded_model, server_context)
            answers = await server_context.threads.run(
                lambda: start_chat(loaded_model, params, server_context.limits, options)
            )
            record.loosened, record.unmet = answers.loosened, answers.unmet
        except BaseException:
            server_context.registry.release(loaded_model)
            raise
        record.ignored += answers.ignored
        builder = ResponseBuilder(body, loaded_model.name, answers, record)

        async def keep(response: dict[str, Any]) -> None:
            if body.store is not False:
                messages_after = [*messages, *assistant_messages(builder.items.output)]
                size = await server_context.threads.run(lambda: size_of(response, messages_after, given))
                store.put(StoredResponse(response, messages_after, given, record.key, size))

        if body.stream:
            end = functools.partial(server_context.finish_request, loaded_model, answers, record)
            return EventStream(
                response_events(builder, keep),
                answers.cancel,
                end,
                record,
                server_context.limits.stall_seconds,
                builder.failed,
            )
        response = await cancel_on_disconnect(
            request,
            server_context.finish_after(loaded_model, answers, record, full_response(builder)),
            answers.cancel,
        )
        await keep(response)
        return JSONResponse(response)

    def found(id_: str, request: Request) -> StoredResponse:
        stored = store.get(id_, request.state.record.key)
        if stored is None:
            raise ApiError(404, f"there is no response {id_[:80]!r}", "id", "not_found")
        return stored

    @routes.get("/v1/responses/{id}")
    async def stored(request: Request, id: str) -> dict[str, Any]:
        return found(id, request).response

    @routes.delete("/v1/responses/{id}")
    async def delete(request: Request, id: str) -> dict[str, Any]:
        store.remove(found(id, request).response["id"], request.state.record.key)
        return {"id": id, "object": "response", "deleted": True}

    @routes.post("/v1/responses/{id}/cancel")
    async def cancel(request: Request, id: str) -> dict[str, Any]:
        """Refused: OpenAI cancels only background responses, which this server does not have.

        A client that disconnects cancels its response.
        """
        found(id, request)
        raise ApiError(
            400,
            "id: a response that was not begun with background=true cannot be cancelled",
            "id",
            "invalid_value",
        )

    @routes.get("/v1/responses/{id}/input_items")
    async def input_items(
        request: Request,
        id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        """The items of the request that a response answers, the last one first."""
        items = found(id, request).input[:: 1 if order == "asc" else -1]
        return list_page(items, limit, after)

    return routes


def list_page(items: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """A page of a list as the API has it. Raises ApiError when `after` is not in the list."""
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ApiError(400, f"after: there is no item {after[:80]!r}", "after", "invalid_value")
    left = items[ids.index(after) + 1 :] if after is not None else items
    part = left[:limit]
    ends = (part[0]["id"], part[-1]["id"]) if part else (None, None)
    return {
        "object": "list",
        "data": part,
        "first_id": ends[0],
        "last_id": ends[1],
        "has_more": len(left) > limit,
    }


def _ignored(body: ResponseRequest) -> list[str]:
    return [
        f"include[{number}]"
        for number, each in enumerate(body.include or ())
        if each not in (LOGPROBS, ENCRYPTED_REASONING)
    ]


def _chat_params(body: ResponseRequest, messages: list[Message]) -> ChatParams:
    tools = [template_tool(Function(**tool.model_dump(exclude={"type"}))) for tool in body.tools or ()]
    choice = body.tool_choice
    if isinstance(choice, AllowedFunctions):
        chosen = resolve_tool_choice(tools, choice.mode, [each.name for each in choice.tools])
    elif isinstance(choice, NamedFunction):
        chosen = resolve_tool_choice(tools, None, [choice.name])
    else:
        chosen = resolve_tool_choice(tools, choice)
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return ChatParams(
        messages=[*instructions, *messages],
        tools=chosen.tools,
        choice=chosen.choice,
        named=chosen.named,
        parallel=body.parallel_tool_calls is not False,
        schema=_schema(body),
        schema_param="text.format.schema",
        schema_strict=bool(body.text and body.text.format and body.text.format.strict),
        tool_params={
            tool.name: f"tools[{number}].parameters" for number, tool in enumerate(body.tools or ())
        },
        strict=frozenset(tool.name for tool in body.tools or () if tool.strict),
        reasoning_effort=body.reasoning.effort if body.reasoning else None,
        effort_param="reasoning.effort",
        truncate=body.truncation == "auto",
    )


def _schema(body: ResponseRequest) -> Any:
    form = body.text.format if body.text else None
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.schema_ is None:
        raise ApiError(
            400, "text.format.schema: is missing", "text.format.schema", "missing_required_parameter"
        )
    return form.schema_


def _options(
    body: ResponseRequest,
    loaded_model: LoadedModel,
    server_context: ServerContext,
    room: int,
    constraint: Mapping[str, Any],
) -> SamplingConfig:
    extra = dict(constraint)
    if LOGPROBS in included(body):
        extra["logprobs"] = body.top_logprobs or 0
    return sampling_config(
        body,
        loaded_model,
        server_context.limits,
        limit_max_tokens(body.max_output_tokens, room, server_context.limits),
        extra,
    )
