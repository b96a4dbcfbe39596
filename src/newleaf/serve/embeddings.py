"""POST /v1/embeddings: the mean of a text's last hidden states, as the network has them before its head, scaled to length 1."""

from __future__ import annotations

import base64
from typing import Any

import torch
from fastapi import APIRouter, Request

from newleaf.errors import NotFiniteError
from newleaf.generate.runner import evaluating
from newleaf.model import GPT
from newleaf.serve.completions import encoded, prompts_of
from newleaf.serve.errors import ApiError
from newleaf.serve.hosted import Hosted
from newleaf.serve.routes import router
from newleaf.serve.schemas import EmbeddingRequest
from newleaf.serve.serving import Serving


def embeddings_router(serving: Serving) -> APIRouter:
    routes = router()

    @routes.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """A vector for each text. Language models are not trained for this: expect less of it than of a model for embeddings."""
        record = request.state.record
        async with serving.registry.use(body.model) as hosted:
            record.of(hosted.name, body.user)
            width = hosted.model.network.config.n_embd
            if body.dimensions is not None and body.dimensions > width:
                raise ApiError(400, f"dimensions: this model's vectors have {width:,}", "dimensions", "invalid_value")
            texts = await serving.threads.run(lambda: _encoded(hosted, body))
            hosted.make_room(1)
            rows = [await hosted.aside(_pooling(hosted.model.network, ids)) for ids in texts]
            record.prompt_tokens = sum(len(ids) for ids in texts)
        as_base64 = body.encoding_format == "base64"
        data = [{"object": "embedding", "index": at, "embedding": _written(_scaled(row, body), as_base64)} for at, row in enumerate(rows)]
        usage = {"prompt_tokens": record.prompt_tokens, "total_tokens": record.prompt_tokens}
        return {"object": "list", "data": data, "model": hosted.name, "usage": usage}

    return routes


def _encoded(hosted: Hosted, body: EmbeddingRequest) -> list[list[int]]:
    texts = []
    for prompt in prompts_of(body.input):
        try:
            _, ids = encoded(hosted.model.tokenizer, prompt)
        except ApiError as error:
            raise ApiError(400, str(error.detail).replace("prompt", "input", 1), "input", error.code) from None
        if len(ids) > hosted.context:
            text = f"input: {len(ids):,} tokens are too many; this model takes at most {hosted.context:,}"
            raise ApiError(400, text, "input", "context_length_exceeded")
        texts.append(ids)
    return texts


def _pooling(network: GPT, ids: list[int]) -> Any:
    def pool() -> torch.Tensor:
        with torch.no_grad(), evaluating(network):
            hidden = network.hidden(torch.tensor([ids], device=network.device))
        found = hidden[0].float().mean(0).cpu()
        if not bool(found.isfinite().all()):
            raise NotFiniteError
        return found

    return pool


def _scaled(row: torch.Tensor, body: EmbeddingRequest) -> torch.Tensor:
    """The first `dimensions` of a vector, scaled to length 1 unless the request says not to."""
    row = row[: body.dimensions]
    return row if body.normalize is False else torch.nn.functional.normalize(row, dim=0)


def _written(row: torch.Tensor, as_base64: bool) -> list[float] | str:
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() if as_base64 else row.tolist()
