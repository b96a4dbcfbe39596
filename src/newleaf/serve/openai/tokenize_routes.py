"""POST /tokenize and /detokenize, GET /tokenizer_info."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request, Response

from newleaf.errors import InputError
from newleaf.serve.answers.sampling_params import check_text_bytes
from newleaf.serve.answers.start_chat import render_prompt
from newleaf.serve.api_errors import ApiError, input_error
from newleaf.serve.http.chunked_json import json_bytes, json_response
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.chat_input import template_message
from newleaf.serve.openai.chat_json import token_text
from newleaf.serve.protocol.schemas import DetokenizeRequest, TokenizeRequest
from newleaf.serve.tool_calls.tool_call import detect_format
from newleaf.text.chat_template import RenderOptions
from newleaf.text.messages import contents
from newleaf.text.tokenizer import Tokenizer


def tokens_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """Token ids of a text, or of a conversation in the model's chat template."""
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "prompt: give this or messages", "prompt", "invalid_value")
        async with server_context.registry.use(body.model) as loaded_model:
            request.state.record.model = loaded_model.name
            return json_response(
                await server_context.threads.run(lambda: _tokens(server_context, loaded_model, body))
            )

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
        """The text of token ids."""
        async with server_context.registry.use(body.model) as loaded_model:
            request.state.record.model = loaded_model.name
            tokenizer = loaded_model.model.tokenizer
            if body.tokens and max(body.tokens) >= tokenizer.vocab_size:
                raise ApiError(
                    400, f"tokens: must be below {tokenizer.vocab_size:,}", "tokens", "invalid_value"
                )
            return {
                "prompt": await server_context.threads.run(
                    lambda: tokenizer.decode(body.tokens, skip_special=False)
                )
            }

    @routes.get("/tokenizer_info")
    async def tokenizer_info(request: Request, model: str | None = None) -> dict[str, Any]:
        """Special tokens and chat template, by their names in tokenizer_config.json."""
        async with server_context.registry.use(model) as loaded_model:
            request.state.record.model = loaded_model.name
            return tokenizer_info_json(loaded_model)

    return routes


def tokenizer_info_json(loaded_model: LoadedModel) -> dict[str, Any]:
    """As vLLM returns it, for programs that render and count tokens themselves."""
    tokenizer = loaded_model.model.tokenizer
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    added = tokenizer.backend.get_added_tokens_decoder()
    sources = loaded_model.template.sources if loaded_model.template is not None else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{
            name: tokenizer.backend.id_to_token(token) if token is not None else None
            for name, token in ids.items()
        },
        **{f"{name}_id": token for name, token in ids.items()},
        "vocab_size": tokenizer.vocab_size,
        "model_max_length": loaded_model.context,
        "additional_special_tokens": [token.content for token in added.values() if token.special],
        "chat_template": sources.get("default"),
    }


def encode_with_special_tokens(tokenizer: Tokenizer, text: str, add: bool) -> list[int]:
    """Token ids of a text in which names of special tokens are these tokens, as in transformers.

    `add`: with the tokenizer's post-processor.
    """
    special = {
        token.content: number
        for number, token in tokenizer.backend.get_added_tokens_decoder().items()
        if token.special
    }
    names = sorted(filter(None, special), key=len, reverse=True)
    if not any(name in text for name in names):
        return tokenizer.encode(text, add)
    parts = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    ids = [
        token
        for part in parts
        if part
        for token in ([special[part]] if part in special else tokenizer.encode(part, False))
    ]
    if not add:
        return ids
    inner, outer = tokenizer.encode("a", False), tokenizer.encode("a", True)
    before = next(at for at in range(len(outer)) if outer[at : at + len(inner)] == inner)
    return [*outer[:before], *ids, *outer[before + len(inner) :]]


def _tokens(server_context: ServerContext, loaded_model: LoadedModel, body: TokenizeRequest) -> bytes:
    """The response, serialized in the worker thread."""
    ids = _ids(server_context, loaded_model, body)
    lists: dict[str, Iterable[Any]] = {"tokens": ids}
    if body.return_token_strs:
        lists["token_strs"] = (token_text(loaded_model.model.tokenizer, each) for each in ids)
    return json_bytes({"count": len(ids), "max_model_len": loaded_model.context}, lists)


def _ids(server_context: ServerContext, loaded_model: LoadedModel, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None:
        tokenizer = loaded_model.model.tokenizer
        if body.parse_special:
            return encode_with_special_tokens(tokenizer, body.prompt, body.add_special_tokens)
        return tokenizer.encode(body.prompt, body.add_special_tokens)
    messages = [template_message(message) for message in body.messages or ()]
    check_text_bytes(contents(messages), loaded_model, server_context.limits, "messages")
    try:
        responder = loaded_model.responder
        return render_prompt(
            responder, messages, (), detect_format(responder.template.source()), RenderOptions()
        ).ids
    except InputError as error:
        raise input_error(error, default="messages") from None
