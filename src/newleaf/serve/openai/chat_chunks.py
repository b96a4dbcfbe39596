"""The chunks of a streamed chat completion."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from newleaf.serve.answers.chat_answers import ChatAnswers, Delta
from newleaf.serve.answers.usage import chat_usage
from newleaf.serve.http.event_stream import DONE, event
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.openai.chat_json import logprobs_json, progress_json, tool_call_json
from newleaf.serve.tool_calls.tool_call import ToolCall, ToolCallDelta, ToolCallEnd, ToolCallStart


async def chat_chunks(
    answers: ChatAnswers, loaded_model: LoadedModel, head: dict[str, Any], usage: bool, record: Any
) -> AsyncIterator[bytes]:
    """The chunks; those that come at once are sent together."""
    head = {"id": head["id"], "object": "chat.completion.chunk", **head}
    more = {"usage": None} if usage else {}
    # Most chunks are a few characters of text: a template is faster than serializing each.
    before = json.dumps(head, separators=(",", ":"))[:-1] + ',"choices":[{"index":'
    after = ',"logprobs":null,"finish_reason":null}]' + (',"usage":null' if usage else "") + "}\n\n"

    def chunk(index: int, delta: dict[str, Any], end: str | None = None, scores: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": scores, "finish_reason": end}
        return event({**head, "choices": [choice], **more})

    def delta_chunk(delta: Delta, calls: list[int]) -> bytes:
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
    async for deltas in answers.deltas(stream_calls=True):
        if not deltas:
            yield event({**head, "choices": [], **more, "prompt_progress": progress_json(answers, began)})
            continue
        record.mark_first_token()
        yield b"".join(delta_chunk(delta, calls) for delta in deltas)
    last = event({**head, "choices": [], "usage": chat_usage(answers)}) if usage else b""
    yield last + DONE
