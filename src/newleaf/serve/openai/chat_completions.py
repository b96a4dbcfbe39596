"""POST /v1/chat/completions."""

from __future__ import annotations

import functools
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from newleaf.generate.options import SamplingConfig
from newleaf.generate.sampling.logprobs import TokenScore
from newleaf.serve.answers.chat_answers import ChatAnswers, Delta, start_chat
from newleaf.serve.answers.chat_params import ChatParams
from newleaf.serve.answers.sampling_params import limit_max_tokens, sampling_config
from newleaf.serve.answers.usage import chat_usage
from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.event_stream import DONE, EventStream, cancel_on_disconnect, event
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.protocol.schemas import AllowedChoice, ChatRequest, NamedTool
from newleaf.serve.protocol.schemas import Message as ChatMessage
from newleaf.serve.tool_calls.tool_call import ToolCall, ToolCallDelta, ToolCallEnd, ToolCallStart
from newleaf.serve.tool_calls.tool_choice import resolve_tool_choice, template_tool
from newleaf.text.reasoning import Part
from newleaf.text.tokenizer import Tokenizer


def chat_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/chat/completions", response_model=None)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answers a conversation, whole or as events while it is written."""
        record = request.state.record
        answers, loaded_model = await begin(server_context, body, request)
        head = _head(loaded_model)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            if body.return_progress:
                answers.request.watch_prefill()
            events = _events(answers, loaded_model, head, usage, record)
            end = functools.partial(server_context.done, loaded_model, answers, record)
            return EventStream(events, answers.cancel, end, record, server_context.limits.stall_seconds)
        whole = server_context.until_done(
            loaded_model, answers, record, _whole(answers, loaded_model, head, record)
        )
        return JSONResponse(await cancel_on_disconnect(request, whole, answers.cancel))

    return routes


async def begin(
    server_context: ServerContext, body: ChatRequest, request: Request
) -> tuple[ChatAnswers, LoadedModel]:
    """Hand the conversation to the engine. The caller has to release the model afterwards."""
    question = chat_params(body)
    record = request.state.record
    loaded_model = await server_context.registry.acquire(body.model)
    record.of(loaded_model.name, body.user)
    try:
        options = functools.partial(_options, body, loaded_model, server_context)
        answers = await server_context.threads.run(
            lambda: start_chat(loaded_model, question, server_context.limits, options)
        )
        record.ignored += answers.ignored
        record.loosened, record.unmet = answers.loosened, answers.unmet
        return answers, loaded_model
    except BaseException:
        server_context.registry.release(loaded_model)
        raise


def chat_params(body: ChatRequest) -> ChatParams:
    """Raises ApiError for parameters that do not go together."""
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
        effort=body.reasoning_effort,
        go_on=bool(body.continue_final_message),
        variables=body.chat_template_kwargs,
    )


def template_message(message: ChatMessage) -> dict[str, Any]:
    """A message as templates expect it: calls in today's form with their arguments as JSON, parts of text as
    "text", no empty lists."""
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


def _head(loaded_model: LoadedModel) -> dict[str, Any]:
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": loaded_model.name,
    }
    return {**head, "system_fingerprint": loaded_model.fingerprint}


async def _events(
    answers: ChatAnswers, loaded_model: LoadedModel, head: dict[str, Any], usage: bool, record: Any
) -> AsyncIterator[bytes]:
    """The chunks, several in one piece where they come at once."""
    head = {"id": head["id"], "object": "chat.completion.chunk", **head}
    more = {"usage": None} if usage else {}
    # Most chunks are a few characters of text: they are put together without walking through the whole of
    # them.
    before = json.dumps(head, separators=(",", ":"))[:-1] + ',"choices":[{"index":'
    after = ',"logprobs":null,"finish_reason":null}]' + (',"usage":null' if usage else "") + "}\n\n"

    def chunk(index: int, delta: dict[str, Any], end: str | None = None, scores: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": end}
        return event({**head, "choices": [choice], **more})

    def told(delta: Delta, calls: list[int]) -> bytes:
        if isinstance(delta.part, ToolCall):
            calls[delta.index] += 1
            return chunk(
                delta.index, {"tool_calls": [{"index": calls[delta.index] - 1, **tool_call_json(delta.part)}]}
            )
        if isinstance(delta.part, ToolCallStart):
            calls[delta.index] += 1
            begun = tool_call_json(ToolCall(delta.part.name, ""))
            return chunk(delta.index, {"tool_calls": [{"index": calls[delta.index] - 1, **begun}]})
        if isinstance(delta.part, ToolCallDelta):
            part = {"index": calls[delta.index] - 1, "function": {"arguments": delta.part.arguments}}
            return chunk(delta.index, {"tool_calls": [part]})
        if isinstance(delta.part, ToolCallEnd):
            return b""
        if delta.part is None:
            return chunk(delta.index, {}, delta.end)
        text, scores = delta.part.text, None
        if delta.scores:
            scores = {"content": logprobs_json(delta.scores, loaded_model.model.tokenizer), "refusal": None}
        elif delta.part.kind == "content":
            return f'data: {before}{delta.index},"delta":{{"content":{json.dumps(text)}}}{after}'.encode()
        names = ("content",) if delta.part.kind == "content" else ("reasoning", "reasoning_content")
        return chunk(delta.index, dict.fromkeys(names, text), None, scores)

    calls = [0] * answers.request.config.n
    yield b"".join(chunk(number, {"role": "assistant", "content": ""}) for number in range(len(calls)))
    began = time.perf_counter()
    async for deltas in answers.deltas(live=True):
        if not deltas:
            yield event({**head, "choices": [], **more, "prompt_progress": progress_json(answers, began)})
            continue
        record.wrote()
        yield b"".join(told(delta, calls) for delta in deltas)
    last = event({**head, "choices": [], "usage": chat_usage(answers)}) if usage else b""
    yield last + DONE


def progress_json(answers: ChatAnswers, began: float) -> dict[str, int]:
    """How much of the prompt has been read, as llama.cpp's `return_progress` has it."""
    reading = answers.request.prefill
    assert reading is not None
    spent = round(1000 * (time.perf_counter() - began))
    return {"total": reading.total, "cache": reading.cached, "processed": reading.processed, "time_ms": spent}


async def _whole(
    answers: ChatAnswers, loaded_model: LoadedModel, head: dict[str, Any], record: Any
) -> dict[str, Any]:
    count = answers.request.config.n
    texts: list[dict[str, str]] = [{"content": "", "reasoning": ""} for _ in range(count)]
    calls: list[list[ToolCall]] = [[] for _ in range(count)]
    scores: list[list[TokenScore]] = [[] for _ in range(count)]
    ends: list[str] = ["stop"] * count
    async for deltas in answers.deltas():
        record.wrote()
        for delta in deltas:
            if isinstance(delta.part, ToolCall):
                calls[delta.index].append(delta.part)
            elif isinstance(delta.part, Part):
                texts[delta.index][delta.part.kind] += delta.part.text
            scores[delta.index] += delta.scores
            ends[delta.index] = delta.end or ends[delta.index]
    asked = answers.request.config.logprobs is not None
    choices = [
        {
            "index": number,
            "message": message_json(texts[number], calls[number]),
            "logprobs": {
                "content": logprobs_json(scores[number], loaded_model.model.tokenizer),
                "refusal": None,
            }
            if asked
            else None,
            "finish_reason": ends[number],
        }
        for number in range(count)
    ]
    return {**head, "object": "chat.completion", "choices": choices, "usage": chat_usage(answers)}


def message_json(texts: Mapping[str, str], calls: list[ToolCall]) -> dict[str, Any]:
    content = texts["content"] if texts["content"] or not calls else None
    found: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if texts["reasoning"]:
        found |= {"reasoning": texts["reasoning"], "reasoning_content": texts["reasoning"]}
    return found | ({"tool_calls": [tool_call_json(call) for call in calls]} if calls else {})


def tool_call_json(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def logprobs_json(scores: Any, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities and, as text may hold half a character, with their bytes."""

    def named(token: int, value: float | None) -> dict[str, Any]:
        text = token_text(tokenizer, token)
        return {
            "token": text,
            "logprob": max(value if value is not None else 0.0, -9999.0),
            "bytes": list(tokenizer.token_bytes(token)),
            "id": token,
        }

    return [
        {**named(score.id, score.logprob), "top_logprobs": [named(*pair) for pair in score.top]}
        for score in scores
    ]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The token's characters; a special token's name."""
    found = tokenizer.token_bytes(token)
    return found.decode("utf-8", "replace") if found else str(tokenizer.backend.id_to_token(token) or "")
