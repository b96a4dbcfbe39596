"""POST /tokenize and /detokenize: what a model's tokenizer and chat template make of text."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from newleaf.errors import InputError
from newleaf.serve.answers import conversation_prompt
from newleaf.serve.chat import message_of, token_text
from newleaf.serve.errors import ApiError, refused
from newleaf.serve.hosted import Hosted
from newleaf.serve.routes import router
from newleaf.serve.schemas import DetokenizeRequest, TokenizeRequest
from newleaf.serve.serving import Serving
from newleaf.serve.tool_calls import form_of
from newleaf.text.chat_template import Rendering


def tokens_router(serving: Serving) -> APIRouter:
    routes = router()

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        """Ids of a text, or of a conversation in the model's chat template."""
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "prompt: give this or messages", "prompt", "invalid_value")
        async with serving.registry.use(body.model) as hosted:
            request.state.record.model = hosted.name
            ids = await serving.threads.run(lambda: _ids(hosted, body))
            found = {"count": len(ids), "max_model_len": hosted.context, "tokens": ids}
            return found | ({"token_strs": [token_text(hosted.model.tokenizer, each) for each in ids]} if body.return_token_strs else {})

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> dict[str, str]:
        """The text of ids."""
        async with serving.registry.use(body.model) as hosted:
            request.state.record.model = hosted.name
            tokenizer = hosted.model.tokenizer
            if any(token >= tokenizer.vocab_size for token in body.tokens):
                raise ApiError(400, f"tokens: must be below {tokenizer.vocab_size:,}", "tokens", "invalid_value")
            return {"prompt": await serving.threads.run(lambda: tokenizer.decode(body.tokens, skip_special=False))}

    return routes


def _ids(hosted: Hosted, body: TokenizeRequest) -> list[int]:
    if body.prompt is not None:
        return hosted.model.tokenizer.encode(body.prompt, body.add_special_tokens)
    messages = [message_of(message) for message in body.messages or ()]
    try:
        speaker = hosted.speaker
        return conversation_prompt(speaker, messages, (), form_of(speaker.template.source()), Rendering()).ids
    except InputError as error:
        raise refused(error, default="messages") from None
