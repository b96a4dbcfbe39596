"""From a chat request to its parameters and messages, handed to the engine."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from newleaf.generate.options import SamplingConfig
from newleaf.serve.answers.chat_answers import ChatAnswers
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.answers.sampling_params import limit_max_tokens, sampling_config
from newleaf.serve.answers.start_chat import start_chat
from newleaf.serve.api_errors import ApiError
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.protocol.schemas import AllowedChoice, ChatRequest, NamedTool
from newleaf.serve.protocol.schemas import Message as ChatMessage
from newleaf.serve.tool_calls.tool_choice import resolve_tool_choice, template_tool


async def submit_chat(
    server_context: ServerContext, body: ChatRequest, request: Request
) -> tuple[ChatAnswers, LoadedModel]:
    """Submit the conversation to the engine. The caller has to release the model."""
    params = chat_params(body)
    record = request.state.record
    loaded_model = await server_context.registry.acquire(body.model)
    record.set_model(loaded_model.name, body.user)
    try:
        options = functools.partial(_options, body, loaded_model, server_context)
        answers = await server_context.threads.run(
            lambda: start_chat(loaded_model, params, server_context.limits, options)
        )
        record.ignored += answers.ignored
        record.loosened, record.unmet = answers.loosened, answers.unmet
        return answers, loaded_model
    except BaseException:
        server_context.registry.release(loaded_model)
        raise


def chat_params(body: ChatRequest) -> ChatParams:
    """Parameters of a chat request. Raises ApiError for those that exclude each other."""
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs: needs logprobs to be true", "top_logprobs", "invalid_value")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options: is for when stream is true", "stream_options", "invalid_value")
    tools, choice = [template_tool(tool.function) for tool in body.tools or ()], body.tool_choice
    if isinstance(choice, AllowedChoice):
        chosen = resolve_tool_choice(
            tools, choice.allowed_tools.mode, [each.function.name for each in choice.allowed_tools.tools]
        )
    elif isinstance(choice, NamedTool):
        chosen = resolve_tool_choice(tools, None, [choice.function.name])
    else:
        chosen = resolve_tool_choice(tools, choice)
    return ChatParams(
        messages=[template_message(message) for message in body.messages],
        tools=chosen.tools,
        choice=chosen.choice,
        named=chosen.named,
        parallel=body.parallel_tool_calls is not False,
        schema=_schema(body),
        schema_param="response_format.json_schema.schema",
        schema_strict=bool(
            body.response_format
            and body.response_format.json_schema
            and body.response_format.json_schema.strict
        ),
        tool_params={
            tool.function.name: f"tools[{n}].function.parameters" for n, tool in enumerate(body.tools or ())
        },
        strict=frozenset(tool.function.name for tool in body.tools or () if tool.function.strict),
        reasoning_effort=body.reasoning_effort,
        continue_final_message=bool(body.continue_final_message),
        template_variables=body.chat_template_kwargs,
    )


def template_message(message: ChatMessage) -> dict[str, Any]:
    """A message as chat templates expect it.

    Calls are in today's form with arguments as JSON, content parts have the type "text", and there are no
    empty lists.
    """
    found = message.model_dump(exclude_none=True)
    if (old := found.pop("function_call", None)) is not None and "tool_calls" not in found:
        found["tool_calls"] = [{"id": "", "type": "function", "function": old}]
    for call in found.get("tool_calls", ()):
        if not isinstance(arguments := call["function"]["arguments"], str):
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    if not found.get("tool_calls", True):
        del found["tool_calls"]
    if isinstance(parts := found.get("content"), list):
        texts = [{"type": "text", "text": part.get("text", part.get("refusal"))} for part in parts]
        if texts or "tool_calls" not in found:
            found["content"] = texts or ""
        else:
            del found["content"]
    return found


def _schema(body: ChatRequest) -> Any:
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        raise ApiError(
            400,
            "response_format.json_schema: is missing",
            "response_format.json_schema",
            "missing_required_parameter",
        )
    return form.json_schema.schema_


def _options(
    body: ChatRequest,
    loaded_model: LoadedModel,
    server_context: ServerContext,
    room: int,
    constraint: Mapping[str, Any],
) -> SamplingConfig:
    asked = [each for each in (body.max_tokens, body.max_completion_tokens) if each is not None]
    most = limit_max_tokens(min(asked, default=None), room, server_context.limits)
    extra = dict(constraint)
    if body.logprobs:
        extra["logprobs"] = body.top_logprobs or 0
    return sampling_config(body, loaded_model, server_context.limits, most, extra)
