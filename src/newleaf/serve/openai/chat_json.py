"""JSON of chat messages, tool calls, log-probabilities and prompt progress."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from newleaf.serve.answers.chat_answers import ChatAnswers
from newleaf.serve.tool_calls.tool_call import ToolCall
from newleaf.text.tokenizer import Tokenizer


def progress_json(answers: ChatAnswers, began: float) -> dict[str, int]:
    """The progress of prefill, as llama.cpp's `return_progress` has it."""
    reading = answers.request.prefill
    assert reading is not None
    spent = round(1000 * (time.perf_counter() - began))
    return {"total": reading.total, "cache": reading.cached, "processed": reading.processed, "time_ms": spent}


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
    """Tokens with log-probabilities and bytes, since a token may be part of a character."""

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
    """The token's text; a special token's name."""
    found = tokenizer.token_bytes(token)
    return found.decode("utf-8", "replace") if found else str(tokenizer.backend.id_to_token(token) or "")
