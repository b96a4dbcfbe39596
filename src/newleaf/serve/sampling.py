"""From the names of OpenAI's requests to the engine's options, within the server's limits."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig
from newleaf.serve.errors import ApiError, refused
from newleaf.serve.hosted import Hosted
from newleaf.serve.schemas import Sampled
from newleaf.serve.settings import Limits

SAME = (
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_tokens",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "n",
    "regex",
    "grammar",
)
FROM_MODEL = ("temperature", "top_p", "top_k", "min_p")  # of generation_config.json, where the request does not say


def sampling(body: Sampled, hosted: Hosted, limits: Limits, most: int, extra: dict[str, Any]) -> SamplingConfig:
    """The options of a request that writes at most `most` tokens. Raises ApiError naming what cannot be."""
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": most}
    for name in FROM_MODEL:
        value = hosted.model.defaults.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            options[name] = value
    for name in ("temperature", *SAME):
        value = getattr(body, name, None)
        if value is not None:
            options[name] = value
    stop = getattr(body, "stop", None)
    if stop is not None:
        options["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if (choice := getattr(body, "choice", None)) is not None:
        options["choice"] = tuple(choice)
    if max(options.get("n", 1), extra.get("best_of") or 1) > limits.choices:
        raise ApiError(400, f"n: at most {limits.choices} texts are written for one request", "n", "invalid_value")
    try:
        return SamplingConfig(**options | extra)
    except InputError as error:
        raise refused(error, type(body).model_fields) from None


def most_tokens(asked: int | None, room: int, limits: Limits, name: str = "max_tokens", strict: bool = True) -> int:
    """How many tokens a text may have: what was asked for, or all there is room for. Raises ApiError for more than there is (`strict`)
    or than the server writes."""
    if asked is not None and asked > limits.output:
        raise ApiError(400, f"{name}: at most {limits.output:,} tokens are written for one text, not {asked:,}", name, "invalid_value")
    if asked is not None and strict and asked > room:
        raise ApiError(
            400, f"{name}: {asked:,} tokens do not fit; the prompt leaves {max(room, 0):,} of the context", name, "context_length_exceeded"
        )
    return max(1, min(asked if asked is not None else limits.output, room))


def check_prompt(length: int, hosted: Hosted, limits: Limits, name: str) -> None:
    """Raises ApiError for a prompt that is too long."""
    most = min(hosted.context - 1, limits.prompt or hosted.context)
    if length > most:
        text = f"{name}: {length:,} tokens are too many; this model takes at most {most:,} here"
        raise ApiError(400, text, name, "context_length_exceeded")
