"""Usage of a response: prompt, completion, cached and reasoning tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from newleaf.generate.text.request import Request
from newleaf.serve.answers.chat_answers import ChatAnswers


def chat_usage(answers: ChatAnswers) -> dict[str, Any]:
    """Usage of a chat completion.

    `cached_tokens` of the prompt came from the prefix cache; `reasoning_tokens` of the completion are
    reasoning.
    """
    details = {"reasoning_tokens": answers.reasoning_tokens}
    return completion_usage(
        answers.prompt_tokens, answers.completion_tokens, cached_tokens([answers.request])
    ) | {"completion_tokens_details": details}


def completion_usage(read: int, written: int, cached_tokens: int) -> dict[str, Any]:
    """Usage of a completion."""
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def response_usage(answers: ChatAnswers) -> dict[str, Any]:
    """Usage of a response."""
    read, written = answers.prompt_tokens, answers.completion_tokens
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached_tokens([answers.request]), "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": answers.reasoning_tokens},
        "total_tokens": read + written,
    }


def cached_tokens(requests: Iterable[Request]) -> int:
    """Prompt tokens from the prefix cache; with several completions, those of the first prefill."""
    return sum(min(sample.cached for sample in request.samples) for request in requests)
