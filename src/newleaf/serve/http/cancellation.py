"""Cancels generation and other work of a client that disconnects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request

from newleaf.generate.engine.engine_tasks import EngineTask, TaskCancelledError
from newleaf.serve.api_errors import ApiError

Result = TypeVar("Result")


async def cancel_on_disconnect(
    request: Request, work: Awaitable[Result], cancel: Callable[[], None]
) -> Result:
    """The result of `work`; `cancel` is called when the client disconnects before."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        request.state.record.gone = True
        cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def await_engine_task(request: Request, engine_task: EngineTask[Result]) -> Result:
    """The result of an engine task, which is cancelled when the client disconnects.

    Then raises ApiError (499), which no client receives.
    """
    try:
        return await cancel_on_disconnect(request, engine_task_result(engine_task), engine_task.cancel)
    finally:
        engine_task.cancel()  # also where this coroutine is cancelled


async def engine_task_result(engine_task: EngineTask[Result]) -> Result:
    """The task's result. Raises ApiError (499), which no client receives, where it was cancelled."""
    try:
        return await asyncio.shield(asyncio.wrap_future(engine_task.future))
    except TaskCancelledError:
        raise ApiError(499, "the client disconnected", None, "client_closed_request") from None
