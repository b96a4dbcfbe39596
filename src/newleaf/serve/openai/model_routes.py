"""GET /v1/models, /health and /ready."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from newleaf.generate.chat.sampling_defaults import chat_sampling
from newleaf.serve.api_errors import ApiError
from newleaf.serve.models.server_context import ServerContext
from newleaf.version import VERSION


def health_router(server_context: ServerContext) -> APIRouter:
    routes = APIRouter()
    registry = server_context.registry

    def about(name: str) -> dict[str, Any]:
        loaded_model = registry.get_loaded(name)
        known: dict[str, Any] = {}
        if loaded_model is not None:
            known = {
                "context_length": loaded_model.context,
                "max_output_tokens": server_context.limits.output,
                "chat": loaded_model.template is not None,
                "chat_sampling": chat_sampling(loaded_model.model.defaults),
            }
        known |= {"parent": base} if (base := registry.names[name].name) != name else {}
        return {
            "id": name,
            "object": "model",
            "created": registry.created,
            "owned_by": "newleaf",
            "loaded": loaded_model is not None,
            **known,
        }

    @routes.get("/v1/models")
    async def models() -> dict[str, Any]:
        """All models.

        Loaded ones have `context_length`, `max_output_tokens`, `chat` (whether there is a chat template)
        and `chat_sampling` (the page's default sampling).
        """
        return {"object": "list", "data": [about(name) for name in registry.names]}

    @routes.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        if model not in registry.names:
            raise ApiError(404, f"the model {model!r} does not exist", "model", "model_not_found")
        return about(model)

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server is running."""
        return {"status": "ok", "version": VERSION}

    @routes.get("/ready")
    async def ready() -> JSONResponse:
        """Whether a model is loaded and takes requests."""
        open_ = [name for name, loaded, *_ in registry.engine_loads() if loaded]
        return JSONResponse(
            {"status": "ready" if open_ else "loading", "models": open_}, 200 if open_ else 503
        )

    return routes
