"""POST /v1/embeddings: the mean of a text's last hidden states, normalized to length 1."""

from __future__ import annotations

import base64
from collections.abc import Generator, Sequence

import torch
from fastapi import APIRouter, Request, Response

from newleaf.errors import NotFiniteError
from newleaf.generate.backend.chunked_prefill import hidden_state_chunks
from newleaf.model import GPT
from newleaf.serve.answers.sampling_params import check_text_bytes, check_total_tokens
from newleaf.serve.api_errors import ApiError
from newleaf.serve.http.cancellation import await_engine_task
from newleaf.serve.http.chunked_json import json_bytes, json_response
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import LoadedModel
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.completion_input import encode_prompt, prompt_list
from newleaf.serve.protocol.schemas import EmbeddingRequest


def embeddings_router(server_context: ServerContext) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/embeddings", response_model=None)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """A vector for each text.

        Language models are not trained for this; a model for embeddings gives better ones.
        """
        record = request.state.record
        async with server_context.registry.use(body.model) as loaded_model:
            record.set_model(loaded_model.name, body.user)
            width = loaded_model.model.network.config.n_embd
            if body.dimensions is not None and body.dimensions > width:
                raise ApiError(
                    400, f"dimensions: this model's vectors have {width:,}", "dimensions", "invalid_value"
                )
            texts = await server_context.threads.run(lambda: _encoded(server_context, loaded_model, body))
            loaded_model.check_queue(1)
            record.prompt_tokens = sum(len(ids) for ids in texts)
            rows = await await_engine_task(
                request, loaded_model.run_in_engine(_pooled(loaded_model.model.network, texts))
            )
        usage = {"prompt_tokens": record.prompt_tokens, "total_tokens": record.prompt_tokens}
        head = {"object": "list", "model": loaded_model.name, "usage": usage}
        return json_response(
            await server_context.threads.run(lambda: json_bytes(head, {"data": _data(rows, body)}, part=8))
        )

    return routes


def _encoded(
    server_context: ServerContext, loaded_model: LoadedModel, body: EmbeddingRequest
) -> list[list[int]]:
    """The token ids of each text. Texts that are too long are refused before they are encoded."""
    texts, given = [], prompt_list(body.input)
    check_total_tokens(
        sum(len(text) for text in given if not isinstance(text, str)), server_context.limits, "input"
    )
    for prompt in given:
        if isinstance(prompt, str):
            check_text_bytes([prompt], loaded_model, server_context.limits, "input")
        else:
            _check_length(len(prompt), loaded_model)
    for prompt in given:
        try:
            _, ids = encode_prompt(loaded_model.model.tokenizer, prompt)
        except ApiError as error:
            raise ApiError(
                400, str(error.detail).replace("prompt", "input", 1), "input", error.code
            ) from None
        _check_length(len(ids), loaded_model)
        texts.append(ids)
    check_total_tokens(sum(map(len, texts)), server_context.limits, "input")
    return texts


def _check_length(length: int, loaded_model: LoadedModel) -> None:
    if length > loaded_model.context:
        text = f"input: {length:,} tokens are too many; this model takes at most {loaded_model.context:,}"
        raise ApiError(400, text, "input", "context_length_exceeded")


def _pooled(network: GPT, texts: Sequence[Sequence[int]]) -> Generator[None, None, list[torch.Tensor]]:
    """The mean of each text's hidden states, a chunk at a time. Raises NotFiniteError."""
    rows = []
    for ids in texts:
        total = torch.zeros(network.config.n_embd)
        for hidden in hidden_state_chunks(network, ids):
            total += hidden.float().sum(0).cpu()
            yield
        if not bool(total.isfinite().all()):
            raise NotFiniteError
        rows.append(total / len(ids))
    return rows


def _data(rows: Sequence[torch.Tensor], body: EmbeddingRequest) -> Generator[object, None, None]:
    for at, row in enumerate(rows):
        yield {
            "object": "embedding",
            "index": at,
            "embedding": _written(_scaled(row, body), body.encoding_format == "base64"),
        }


def _scaled(row: torch.Tensor, body: EmbeddingRequest) -> torch.Tensor:
    """The first `dimensions` of a vector, normalized unless the request has normalize: false."""
    row = row[: body.dimensions]
    return row if body.normalize is False else torch.nn.functional.normalize(row, dim=0)


def _written(row: torch.Tensor, as_base64: bool) -> list[float] | str:
    return base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() if as_base64 else row.tolist()
