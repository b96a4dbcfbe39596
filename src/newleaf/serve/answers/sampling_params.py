"""From the names of OpenAI's requests to the engine's options, within the server's limits."""

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
    body: SamplingFields, loaded_model: LoadedModel, limits: Limits, most: int, extra: dict[str, Any]
) -> SamplingConfig:
    """The options of a request that writes at most `most` tokens. Raises ApiError naming what cannot be."""
    # Where the request does not say, generation_config.json does, and otherwise OpenAI.
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": most} | named_sampling(
        loaded_model.model.defaults
    )
    for name in ("temperature", *SHARED_OPTIONS):
        value = getattr(body, name, None)
        if value is not None:
            options[name] = value
    if options.get("top_p") == 0:  # the fewest tokens that reach it are the likeliest one
        options |= {"top_p": 1.0, "temperature": 0.0}
    if "min_tokens" in options:
        options["min_tokens"] = min(options["min_tokens"], most)
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
        raise ApiError(
            400, f"n: at most {limits.choices} texts are written for one request", "n", "invalid_value"
        )
    try:
        return SamplingConfig(**options | extra)
    except InputError as error:
        raise input_error(error, type(body).model_fields) from None


def as_lark(grammar: str) -> str:
    """A grammar as llguidance reads it; one in llama.cpp's notation (GBNF, `name ::= …`) is translated.
    Raises ApiError."""
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
    """How many tokens a text may have: what was asked for, as far as the server writes so many and there is
    room for them. A text that ends for this says "length"."""
    return max(1, min(asked if asked is not None else limits.output, limits.output, room))


def max_prompt_tokens(loaded_model: LoadedModel, limits: Limits) -> int:
    """How many tokens a prompt may have."""
    return min(loaded_model.context - 1, limits.prompt or loaded_model.context)


def check_text_bytes(texts: Iterable[str], loaded_model: LoadedModel, limits: Limits, name: str) -> None:
    """Raises ApiError for texts that together have more bytes than the tokens of a whole context could stand
    for, so that they are not rendered and encoded first. Not where the tokenizer has no such bound."""
    each = loaded_model.model.tokenizer.most_bytes
    if each is None:
        return
    tokens = min(loaded_model.context, limits.prompt or loaded_model.context)
    size = sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in texts)
    if size > tokens * each:
        text = f"{name}: {size:,} bytes are too many; this model takes at most {tokens:,} tokens here, which are at most {tokens * each:,}"
        raise ApiError(400, f"{text} bytes", name, "context_length_exceeded")


def check_total_tokens(tokens: int, limits: Limits, name: str) -> None:
    """Raises ApiError for texts that are together more than is read for one request of embeddings or prompt
    scores."""
    if tokens > limits.reading:
        text = f"{name}: {tokens:,} tokens are too many for one request; at most {limits.reading:,} are read for all of its texts together"
        raise ApiError(400, text, name, "invalid_value")


def check_prompt_length(length: int, loaded_model: LoadedModel, limits: Limits, name: str) -> None:
    """Raises ApiError for a prompt that is too long."""
    most = max_prompt_tokens(loaded_model, limits)
    if length > most:
        text = f"{name}: {length:,} tokens are too many; this model takes at most {most:,} here"
        raise ApiError(400, text, name, "context_length_exceeded")
