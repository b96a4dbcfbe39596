"""/v1/batches: create, list, get and cancel batches of requests."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from newleaf.serve.api_errors import ApiError
from newleaf.serve.batches.batch_store import ENDPOINTS
from newleaf.serve.batches.batch_worker import BatchWorker
from newleaf.serve.batches.record_store import Object, public
from newleaf.serve.http.strict_json import strict_router
from newleaf.serve.models.loaded_model import WorkerThreads
from newleaf.serve.protocol.schemas import StrictModel


class BatchRequest(StrictModel):
    """POST /v1/batches."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"  # OpenAI's only value; it has no effect
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


def batches_router(worker: BatchWorker, threads: WorkerThreads) -> APIRouter:
    routes = strict_router()

    @routes.post("/v1/batches")
    async def create(body: BatchRequest, request: Request) -> Object:
        """Starts a batch of the requests in a file."""
        owner = request.state.record.key
        if body.endpoint not in ENDPOINTS:
            raise ApiError(
                400, f"endpoint: must be one of {', '.join(ENDPOINTS)}", "endpoint", "invalid_value"
            )
        try:
            await threads.run(lambda: worker.store.files.get(body.input_file_id, owner))
        except ApiError as error:
            raise ApiError(400, f"input_file_id: {error.detail}", "input_file_id", "invalid_value") from None
        batch = {**_new(body), "id": worker.store.record_store.new_id(), "owner": owner}
        await worker.add(batch)
        return public(batch)

    @routes.get("/v1/batches")
    async def list_batches(
        request: Request, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
    ) -> Object:
        return await threads.run(
            lambda: worker.store.record_store.page(request.state.record.key, after, limit)
        )

    @routes.get("/v1/batches/{id}")
    async def batch(request: Request, id: str) -> Object:
        return public(await threads.run(lambda: worker.store.record_store.get(id, request.state.record.key)))

    @routes.post("/v1/batches/{id}/cancel")
    async def cancel(request: Request, id: str) -> Object:
        """Cancels a batch; answered lines are kept."""
        found = await worker.cancel(id, request.state.record.key)
        if found is None:
            raise ApiError(409, "the batch has already ended", "id", "invalid_value")
        return public(found)

    return routes


def _new(body: BatchRequest) -> dict[str, Any]:
    now = int(time.time())
    ends = (
        "in_progress_at",
        "finalizing_at",
        "completed_at",
        "failed_at",
        "expired_at",
        "cancelling_at",
        "cancelled_at",
    )
    return {
        "object": "batch",
        "endpoint": body.endpoint,
        "errors": None,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now,
        "expires_at": None,
        **dict.fromkeys(ends),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": body.metadata,
    }
