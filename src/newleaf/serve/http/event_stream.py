"""Server-sent events: streams of chunks, which end with [DONE], an error or the client's disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from newleaf.errors import NotFiniteError
from newleaf.serve.api_errors import ApiError, error_body
from newleaf.serve.http.request_record import RequestRecord

DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(value: Any, name: str | None = None) -> bytes:
    """One server-sent event, whose data is JSON."""
    head = f"event: {name}\n" if name is not None else ""
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class EventStream(Response):
    """A response that streams events.

    `cancel` is called when the client disconnects, or does not read for `stall` seconds; `end` at the end
    in any case. `failed` makes the last events of an error's body.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        cancel: Callable[[], None],
        end: Callable[[], None],
        record: RequestRecord,
        stall: float,
        failed: Callable[[dict[str, Any]], bytes] = event,
    ) -> None:
        self.status_code, self.background, self._failed = 200, None, failed
        self._events, self._cancel, self._end, self._record, self._stall = events, cancel, end, record, stall
        self.init_headers(HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._wait_for_disconnect(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.timeout(None) as limit:
                async for chunk in self._with_errors():
                    limit.reschedule(loop.time() + self._stall)
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                    limit.reschedule(None)
                    if self._record.gone:
                        break
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            self._record.gone = True  # uvicorn closes a connection whose response has no end
        finally:
            self._cancel()
            watch.cancel()
            self._end()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _with_errors(self) -> AsyncIterator[bytes]:
        """The events; an error on the way becomes the last one."""
        try:
            async for chunk in self._events:
                yield chunk
        except ApiError as error:
            yield self._failed(error.body)
        except NotFiniteError as error:
            yield self._failed(error_body(500, str(error), code="model_overflow"))
        except Exception:
            yield self._failed(
                error_body(
                    500,
                    f"the server failed during generation; its log has more under the request's id, "
                    f"{self._record.id}",
                )
            )
            raise

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._record.gone = True
        self._cancel()
