"""From a completion request to prompts and sampling options, handed to the engine."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig
from newleaf.generate.text.request import Request as GenerationRequest
from newleaf.serve.answers.sampling_params import (
    check_prompt_length,
    check_text_bytes,
    check_total_tokens,
    limit_max_tokens,
    sampling_config,
)
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.completion_generation import CompletionGeneration
from newleaf.serve.protocol.schemas import CompletionRequest
from newleaf.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16  # as OpenAI has it


def submit_completion(
    server_context: ServerContext, loaded_model: LoadedModel, body: CompletionRequest
) -> CompletionGeneration:
    """Submit the prompts to the engine; not in the event loop's thread. Raises ApiError."""
    limits, given = server_context.limits, prompt_list(body.prompt)
    for prompt in given:  # prompts that are too long are refused before they are encoded
        if isinstance(prompt, str):
            check_text_bytes([prompt], loaded_model, limits, "prompt")
        else:
            check_prompt_length(len(prompt), loaded_model, limits, "prompt")
    prompts = [encode_prompt(loaded_model.model.tokenizer, prompt) for prompt in given]
    for _, ids in prompts:
        check_prompt_length(len(ids), loaded_model, limits, "prompt")
    if body.echo and body.logprobs is not None:
        check_total_tokens(sum(len(ids) for _, ids in prompts), limits, "prompt")
    if body.negative_prompt is not None:
        check_text_bytes([body.negative_prompt], loaded_model, limits, "negative_prompt")
        check_prompt_length(
            len(loaded_model.model.tokenizer.encode(body.negative_prompt)),
            loaded_model,
            limits,
            "negative_prompt",
        )
    extra = completion_options(body, loaded_model)
    configs: list[SamplingConfig] = []
    for _, ids in prompts:
        most = limit_max_tokens(
            body.max_tokens or DEFAULT_MAX_TOKENS, loaded_model.context - len(ids), limits
        )
        configs.append(sampling_config(body, loaded_model, limits, most, extra))
    each = configs[0].sequences
    if each * len(prompts) > limits.queue:
        raise ApiError(
            400,
            f"prompt: {each * len(prompts):,} completions are more than a request may have",
            "prompt",
            "invalid_value",
        )
    requests: list[GenerationRequest] = []
    if body.max_tokens == 0:  # the prompts are only echoed and scored
        return CompletionGeneration(prompts, requests)
    loaded_model.check_queue(each * len(prompts))
    try:
        for number, ((_, ids), config) in enumerate(zip(prompts, configs, strict=True)):
            requests.append(loaded_model.submit(ids, config, first=number))
    except InputError as error:
        for request in requests:
            request.cancel()
        raise input_error(error, CompletionRequest.model_fields) from None
    return CompletionGeneration(prompts, requests)


def completion_options(body: CompletionRequest, loaded_model: LoadedModel) -> dict[str, Any]:
    """Options that only completions have.

    Beam search does not sample, so generation_config.json's sampling options are left out.
    """
    names = ("best_of", "json_schema", "logprobs", "length_penalty", "guidance_scale", "negative_prompt")
    found = {name: value for name in names if (value := getattr(body, name)) is not None}
    texts = 2 if found.get("guidance_scale", 1) != 1 else 1
    if body.use_beam_search:
        beams = max(body.n or 1, found.pop("best_of", 1))
        if body.temperature:
            raise ApiError(
                400,
                "temperature: beam search does not sample; leave it out, or give 0",
                "temperature",
                "invalid_value",
            )
        found |= {"beams": beams, "temperature": 0}
        if beams == 1:  # then the length penalty changes nothing
            found.pop("length_penalty", None)
        for name, off in (("top_p", 1), ("top_k", 0), ("min_p", 0), ("typical_p", 1)):
            if getattr(body, name) is None:
                found[name] = off
        texts *= beams
    if texts > loaded_model.slots:
        what, name = ("beams", "n") if body.use_beam_search else ("guidance", "guidance_scale")
        raise ApiError(
            400,
            f"{name}: {what} of {texts} sequences; this server generates {loaded_model.slots} at once",
            name,
            "invalid_value",
        )
    return found


def prompt_list(given: Any) -> list[Any]:
    """A text, several, token ids, or several lists of them, as a list of prompts."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        return [given]
    return list(given)


def encode_prompt(tokenizer: Tokenizer, prompt: str | list[int]) -> tuple[str, list[int]]:
    """The prompt as text and ids. An empty one is the BOS token."""
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
        if not ids and tokenizer.bos_id is not None:
            ids = [tokenizer.bos_id]
        text = prompt
    else:
        if prompt and max(prompt) >= tokenizer.vocab_size:
            raise ApiError(
                400, f"prompt: its ids must be below {tokenizer.vocab_size:,}", "prompt", "invalid_value"
            )
        ids, text = list(prompt), tokenizer.decode(prompt)
    if not ids:
        raise ApiError(
            400,
            "prompt: is empty, and this tokenizer has no BOS token",
            "prompt",
            "invalid_value",
        )
    return text, ids
