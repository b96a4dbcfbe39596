"""From a request's fields to sampling options, within the server's limits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.chat.sampling_defaults import named_sampling
from newleaf.generate.options import SamplingConfig
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.http.server_settings import Limits
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.protocol.schemas import SamplingFields

SHARED_OPTIONS = (
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_tokens",
    "valid_utf8",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "n",
    "regex",
    "grammar",
)


def sampling_config(
    body: SamplingFields, loaded_model: LoadedModel, limits: Limits, max_tokens: int, extra: dict[str, Any]
) -> SamplingConfig:
    """The sampling options of a request, with at most `max_tokens` new tokens. Raises ApiError."""
    # Where the request does not say, generation_config.json does, and otherwise OpenAI.
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": max_tokens} | named_sampling(
        loaded_model.model.defaults
    )
    for name in ("temperature", *SHARED_OPTIONS):
        value = getattr(body, name, None)
        if value is not None:
            options[name] = value
    if options.get("top_p") == 0:  # greedy
        options |= {"top_p": 1.0, "temperature": 0.0}
    if "min_tokens" in options:
        options["min_tokens"] = min(options["min_tokens"], max_tokens)
    if "grammar" in options:
        options["grammar"] = as_lark(options["grammar"])
    stop = getattr(body, "stop", None)
    if stop is not None:
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if (ids := getattr(body, "stop_token_ids", None)) is not None:
        options["stop_ids"] = tuple(ids)
    if (choice := getattr(body, "choice", None)) is not None:
        options["choice"] = tuple(choice)
    if max(options.get("n", 1), extra.get("best_of") or 1) > limits.choices:
        raise ApiError(400, f"n: at most {limits.choices} completions for one request", "n", "invalid_value")
    try:
        return SamplingConfig(**options | extra)
    except InputError as error:
        raise input_error(error, type(body).model_fields) from None


def as_lark(grammar: str) -> str:
    """A grammar for llguidance; llama.cpp's GBNF (`name ::= …`) is translated. Raises ApiError."""
    if "::=" not in grammar:
        return grammar
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return str(gbnf_to_lark(grammar))
    except (ValueError, RecursionError, IndexError, KeyError) as error:
        raise ApiError(
            400,
            f"grammar: is not valid GBNF: {' '.join(str(error).split())[:300]}",
            "grammar",
            "invalid_value",
        ) from None


def limit_max_tokens(asked: int | None, room: int, limits: Limits) -> int:
    """The requested number of new tokens, limited by the server and by `room` in the context.

    A text that reaches it ends with "length".
    """
    return max(1, min(asked if asked is not None else limits.output, limits.output, room))


def max_prompt_tokens(loaded_model: LoadedModel, limits: Limits) -> int:
    """The maximum number of prompt tokens."""
    return min(loaded_model.context - 1, limits.prompt or loaded_model.context)


def check_text_bytes(texts: Iterable[str], loaded_model: LoadedModel, limits: Limits, name: str) -> None:
    """Raises ApiError for texts with more bytes than any context of tokens can stand for.

    So they are refused before they are rendered and encoded. Tokenizers without such a bound are skipped.
    """
    each = loaded_model.model.tokenizer.max_token_bytes
    if each is None:
        return
    tokens = min(loaded_model.context, limits.prompt or loaded_model.context)
    size = sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts)
    if size > tokens * each:
        text = f"{name}: {size:,} bytes are too many; this model takes at most {tokens:,} tokens here, "
        text += f"which are at most {tokens * each:,} bytes"
        raise ApiError(400, text, name, "context_length_exceeded")


def check_total_tokens(tokens: int, limits: Limits, name: str) -> None:
    """Raises ApiError for too many tokens in one request of embeddings or prompt scores."""
    if tokens > limits.reading:
        text = f"{name}: {tokens:,} tokens are too many for one request; at most {limits.reading:,} are "
        text += "read for all of its texts together"
        raise ApiError(400, text, name, "invalid_value")


def check_prompt_length(length: int, loaded_model: LoadedModel, limits: Limits, name: str) -> None:
    """Raises ApiError for a prompt that is too long."""
    most = max_prompt_tokens(loaded_model, limits)
    if length > most:
        text = f"{name}: {length:,} tokens are too many; this model takes at most {most:,} here"
        raise ApiError(400, text, name, "context_length_exceeded")
