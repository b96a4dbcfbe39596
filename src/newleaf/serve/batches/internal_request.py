"""Internal requests of batch lines: the same routes and checks as over HTTP, without a connection."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message

from newleaf.serve.http.request_record import RequestRecord


@dataclass(frozen=True)
class InternalResponse:
    """Status and body of a response; for 429 the seconds until a retry."""

    status: int
    body: Any
    retry_after: float | None = None


async def internal_request(app: ASGIApp, path: str, body: Any, record: RequestRecord) -> InternalResponse:
    """POST a JSON body. Cancelling this cancels the generation too."""
    sent, gone = False, asyncio.Event()
    status, parts, retry = 500, bytearray(), None

    async def receive() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, retry
        if message["type"] == "http.response.start":
            status, retry = message["status"], Headers(raw=message.get("headers", [])).get("retry-after")
        parts.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {"record": record},
    }
    try:
        await app(scope, receive, send)
    finally:
        gone.set()
    return InternalResponse(
        status, json.loads(bytes(parts)), float(retry) if retry is not None and retry.isdecimal() else None
    )
