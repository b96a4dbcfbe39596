"""Cancels what is being generated or computed for a client that disconnects."""

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
    """The result of `work`; when the client goes away meanwhile, `cancel` is called."""

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
    """The result of work with the network, which stops when the client goes away; then raises ApiError (499),
    which nobody reads."""
    try:
        return await cancel_on_disconnect(request, engine_task_result(engine_task), engine_task.cancel)
    finally:
        engine_task.cancel()  # also where it is we who are cancelled


async def engine_task_result(engine_task: EngineTask[Result]) -> Result:
    """The result. Raises ApiError (499), which nobody reads, where the work was cancelled."""
    try:
        return await asyncio.shield(asyncio.wrap_future(engine_task.future))
    except TaskCancelledError:
        raise ApiError(499, "the client went away", None, "client_closed_request") from None
