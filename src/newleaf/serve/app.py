"""The ASGI application: all routers behind the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI

from newleaf.serve.api_errors import add_exception_handlers
from newleaf.serve.batches.batch_routes import batches_router
from newleaf.serve.batches.batch_worker import BatchWorker
from newleaf.serve.batches.file_routes import files_router
from newleaf.serve.http.middleware import RequestMiddleware
from newleaf.serve.http.rate_limit import RateLimiters
from newleaf.serve.http.request_metrics import metrics_router
from newleaf.serve.models.server_context import ServerContext
from newleaf.serve.openai.chat_completions import chat_router
from newleaf.serve.openai.completions import completions_router
from newleaf.serve.openai.embeddings import embeddings_router
from newleaf.serve.openai.model_routes import health_router
from newleaf.serve.openai.responses import responses_router
from newleaf.serve.openai.tokenize_routes import tokens_router
from newleaf.serve.web.page_files import page_router
from newleaf.serve.web.run_routes import runs_router
from newleaf.version import VERSION

PAGE = Path(__file__).with_name("web") / "page"


def create_app(server_context: ServerContext, more: Sequence[APIRouter] = ()) -> FastAPI:
    """The ASGI application of a server; `more` are further routers."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker_task: asyncio.Task[None] | None = None
        if worker is not None:
            await worker.prepare()
            worker_task = asyncio.create_task(worker.run())
        yield
        if worker is not None and worker_task is not None:
            worker_task.cancel()
            await asyncio.wait([worker_task])
            worker.close()
        server_context.registry.close()
        server_context.threads.close()

    app = FastAPI(
        title="newleaf",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    rate_limiters = RateLimiters(server_context.limits, server_context.settings.keys)
    worker = None
    if server_context.settings.state is not None:
        worker = BatchWorker(
            server_context.settings.state,
            app,
            rate_limiters,
            server_context.logs,
            max_bytes=server_context.limits.body,
        )
    app.state.strict = server_context.settings.strict
    add_exception_handlers(app)
    server_context.metrics.watch(server_context.registry.engine_loads)
    routers = (
        chat_router,
        completions_router,
        responses_router,
        embeddings_router,
        tokens_router,
        health_router,
        runs_router,
    )
    for router in [
        *(make_router(server_context) for make_router in routers),
        metrics_router(server_context.metrics),
        *more,
    ]:
        app.include_router(router)
    if worker is not None:
        app.include_router(files_router(worker.store.files, server_context.threads))
        app.include_router(batches_router(worker, server_context.threads))
    page = server_context.settings.page or PAGE
    if page.is_dir():
        app.include_router(page_router(page))
    app.add_middleware(
        RequestMiddleware,
        settings=server_context.settings,
        rates=rate_limiters,
        metrics=server_context.metrics,
        logs=server_context.logs,
    )
    return app
