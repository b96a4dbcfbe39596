"""ASGI middleware: request id, host check, authentication, rate limit, body limits, log line, errors."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
import traceback
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from newleaf.serve.api_errors import ApiError, error_body, error_response, too_many_requests
from newleaf.serve.http.authentication import authenticate
from newleaf.serve.http.disk_full import disk_full_error, is_disk_full
from newleaf.serve.http.host_check import check_host
from newleaf.serve.http.logs import Logs
from newleaf.serve.http.rate_limit import RateLimiters
from newleaf.serve.http.request_metrics import Metrics
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.http.server_settings import Settings

UNAUTHENTICATED = ("/health", "/ready")  # for health checks
AUTHENTICATED = ("/v1", "/tokenize", "/detokenize", "/tokenizer_info", "/metrics", "/openapi.json", "/runs")
UPLOAD_PATH = "/v1/files"
MAX_LENGTH_DIGITS = 18  # of Content-Length
MAX_HEADER_CHARACTERS = 1000  # of the header that names ignored fields
MAX_LOGGED_FIELDS = 32  # ignored fields in a log line
TRACEBACK_LINES = 6  # the last ones, of an error in the log


class RequestMiddleware:
    """ASGI middleware. `scope["state"]["record"]` is the request's `RequestRecord`."""

    def __init__(
        self, app: ASGIApp, settings: Settings, rates: RateLimiters, metrics: Metrics, logs: Logs
    ) -> None:
        self.app, self.limits, self.rates, self.metrics, self.logs = (
            app,
            settings.limits,
            rates,
            metrics,
            logs,
        )
        self.keys, self.hosts = settings.keys, settings.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        # A batch's internal request was authenticated when the batch was created.
        internal = isinstance(state.get("record"), RequestRecord)
        record: RequestRecord = state["record"] if internal else RequestRecord(_request_id(headers))
        state["record"] = record
        status = 0

        async def send_response(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["x-request-id"] = record.id
                for name in ("ignored", "loosened", "unmet"):
                    if lines := getattr(record, name):
                        added[f"x-newleaf-{name}"] = header_list(lines)
                if status in (408, 413):
                    added["connection"] = "close"  # the rest of the body is not read
            await send(message)

        try:
            if not internal:
                self._admit(scope, headers, record)
            await self.app(scope, self._limit_body(scope, headers, receive), send_response)
        except ApiError as error:
            await error_response(error)(scope, receive, send_response)
        except Exception as error:
            trace = "".join(traceback.format_exception(error)[-TRACEBACK_LINES:])
            self.logs.write("error", id=record.id, problem=repr(error), trace=trace)
            if status == 0 and is_disk_full(error):
                await error_response(disk_full_error())(scope, receive, send_response)
            elif status == 0:
                body = error_body(
                    500, f"the server failed; its log has more under the request's id, {record.id}"
                )
                await _json(500, body, send_response, scope, receive)
        finally:
            self._finish(scope, record, status)

    def _admit(self, scope: Scope, headers: Headers, record: RequestRecord) -> None:
        check_host(scope["method"], headers, self.hosts)
        path = scope["path"]
        if self.keys is not None and path.startswith(AUTHENTICATED):
            record.key = authenticate(headers, self.keys).name
        if (
            scope["method"] == "POST"
            and path.startswith(AUTHENTICATED)
            and (retry_after := self.rates.for_key(record.key).admit())
        ):
            raise too_many_requests(
                f"too many requests or tokens in a minute; try again in {retry_after:.0f} s", retry_after
            )

    def _limit_body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """A `receive` that enforces the body's maximum size and time."""
        limit = self.limits.upload if scope["path"] == UPLOAD_PATH else self.limits.body
        if (encoding := headers.get("content-encoding", "identity").lower()) != "identity":
            text = f"Content-Encoding: {encoding[:40]} is not taken; send the body as it is"
            raise ApiError(415, text, None, "unsupported_content_encoding", {"Accept-Encoding": "identity"})
        given = headers.get("content-length", "0").lstrip("0") or "0"
        if given.isdecimal() and (len(given) > MAX_LENGTH_DIGITS or int(given) > limit):
            given = given[:MAX_LENGTH_DIGITS]
            raise ApiError(
                413,
                f"the body has {int(given):,} bytes, and at most {limit:,} are taken",
                None,
                "request_too_large",
            )
        seconds, size, over = self.limits.body_seconds, 0, False
        deadline = time.monotonic() + seconds

        async def limited_receive() -> Message:
            nonlocal size, over
            if over:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise ApiError(
                    408, f"the body was not there after {seconds:g} seconds", None, "request_timeout"
                ) from None
            size += len(message.get("body", b""))
            over = message["type"] != "http.request" or not message.get("more_body", False)
            if size > limit:
                raise ApiError(413, f"the body has more than {limit:,} bytes", None, "request_too_large")
            return message

        return limited_receive

    def _finish(self, scope: Scope, record: RequestRecord, status: int) -> None:
        seconds = time.perf_counter() - record.began
        tokens = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
        if tokens:
            self.rates.for_key(record.key).count_tokens(tokens)
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.request(route, status, seconds, record)
        if route in UNAUTHENTICATED or route == "/metrics":
            return
        fields: dict[str, Any] = {
            name: getattr(record, name) for name in ("id", "key", "model", "user", "gone")
        }
        fields |= {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens}
        for name in ("ignored", "loosened", "unmet"):
            fields |= {name: lines[:MAX_LOGGED_FIELDS]} if (lines := getattr(record, name)) else {}
        first = round(record.first_token, 4) if record.first_token is not None else None
        client = scope["client"][0] if scope.get("client") else None
        self.logs.write(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 4),
            first_token=first,
            client=client,
            **fields,
        )


def header_list(places: Sequence[str]) -> str:
    """Fields for a header, percent-encoded; a long list is cut and counted."""
    text = ""
    for number, place in enumerate(places):
        more = (", " if text else "") + quote(place, safe="[]._-/$")
        if len(text) + len(more) > MAX_HEADER_CHARACTERS:
            return f"{text}{', ' if text else ''}and {len(places) - number} more"
        text += more
    return text


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given) else f"req_{secrets.token_hex(12)}"


async def _json(status: int, body: Any, send: Send, scope: Scope, receive: Receive) -> None:
    from starlette.responses import JSONResponse

    await JSONResponse(body, status)(scope, receive, send)
