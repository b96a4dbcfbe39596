"""The application: every room's routes behind one edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI

from newleaf.serve.batch_work import Work
from newleaf.serve.batches import batches_router
from newleaf.serve.chat import chat_router
from newleaf.serve.completions import completions_router
from newleaf.serve.edge import Edge
from newleaf.serve.embeddings import embeddings_router
from newleaf.serve.errors import add_handlers
from newleaf.serve.files import files_router
from newleaf.serve.health import health_router
from newleaf.serve.metrics import metrics_router
from newleaf.serve.page import page_router
from newleaf.serve.rates import KeyRates
from newleaf.serve.responses import responses_router
from newleaf.serve.runs import runs_router
from newleaf.serve.serving import Serving
from newleaf.serve.tokens import tokens_router
from newleaf.version import VERSION

PAGE = Path(__file__).with_name("page")


def create_app(serving: Serving, more: Sequence[APIRouter] = ()) -> FastAPI:
    """An ASGI application of this server; `more` are further routes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        working: asyncio.Task[None] | None = None
        if work is not None:
            await work.prepare()
            working = asyncio.create_task(work.run())
        yield
        if work is not None and working is not None:
            working.cancel()
            await asyncio.wait([working])
            work.close()
        serving.registry.close()
        serving.threads.close()

    app = FastAPI(title="newleaf", version=VERSION, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False)
    rates = KeyRates(serving.limits, serving.settings.keys)
    work = None
    if serving.settings.state is not None:
        work = Work(serving.settings.state, app, rates, serving.logs, most_bytes=serving.limits.body)
    app.state.strict = serving.settings.strict
    add_handlers(app)
    serving.metrics.watch(serving.registry.loads)
    rooms = (chat_router, completions_router, responses_router, embeddings_router, tokens_router, health_router, runs_router)
    for router in [*(room(serving) for room in rooms), metrics_router(serving.metrics), *more]:
        app.include_router(router)
    if work is not None:
        app.include_router(files_router(work.store.files, serving.threads))
        app.include_router(batches_router(work, serving.threads))
    page = serving.settings.page or PAGE
    if page.is_dir():
        app.include_router(page_router(page))
    app.add_middleware(Edge, settings=serving.settings, rates=rates, metrics=serving.metrics, logs=serving.logs)
    return app
