"""The application: every room's routes behind one edge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI

from newleaf.serve.chat import chat_router
from newleaf.serve.completions import completions_router
from newleaf.serve.edge import Edge
from newleaf.serve.errors import add_handlers
from newleaf.serve.health import health_router
from newleaf.serve.metrics import metrics_router
from newleaf.serve.page import page_router
from newleaf.serve.serving import Serving
from newleaf.serve.tokens import tokens_router
from newleaf.version import VERSION

PAGE = Path(__file__).with_name("page")


def create_app(serving: Serving, more: Sequence[APIRouter] = ()) -> FastAPI:
    """An ASGI application of this server; `more` are further routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        serving.registry.close()
        serving.threads.close()

    app = FastAPI(title="newleaf", version=VERSION, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    add_handlers(app)
    serving.metrics.watch(serving.registry.loads)
    routers = [
        chat_router(serving),
        completions_router(serving),
        tokens_router(serving),
        health_router(serving),
        metrics_router(serving.metrics),
    ]
    for router in [*routers, *more]:
        app.include_router(router)
    page = serving.settings.page or PAGE
    if page.is_dir():
        app.include_router(page_router(page))
    app.add_middleware(Edge, settings=serving.settings, metrics=serving.metrics, logs=serving.logs)
    return app
