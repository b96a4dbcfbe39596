"""What stands around every request: id, origin, key and rate, how large and how slow it may be, its line in
the log, a 500 at worst."""

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
from newleaf.serve.http.api_keys import find_key
from newleaf.serve.http.disk_full import disk_full_error, is_disk_full
from newleaf.serve.http.host_check import check_host
from newleaf.serve.http.logs import Logs
from newleaf.serve.http.rate_limit import RateLimiters
from newleaf.serve.http.request_metrics import Metrics
from newleaf.serve.http.request_record import RequestRecord
from newleaf.serve.http.server_settings import Settings

UNAUTHENTICATED = ("/health", "/ready")  # for whoever watches the server
AUTHENTICATED = ("/v1", "/tokenize", "/detokenize", "/tokenizer_info", "/metrics", "/openapi.json", "/runs")
UPLOAD_PATH = "/v1/files"
MAX_LENGTH_DIGITS = 18  # digits of a length
MAX_HEADER_CHARACTERS = 1000  # characters of the header that names what was ignored
MAX_LOGGED_FIELDS = 32  # names of it in the log
TRACEBACK_LINES = 6  # calls that led to an error, the last ones


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
        # a request of our own, for a batch that was let in
        inside = isinstance(state.get("record"), RequestRecord)
        record: RequestRecord = state["record"] if inside else RequestRecord(_request_id(headers))
        state["record"] = record
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["x-request-id"] = record.id
                for name in ("ignored", "loosened", "unmet"):
                    if lines := getattr(record, name):
                        added[f"x-newleaf-{name}"] = header_list(lines)
                if status in (408, 413):
                    added["connection"] = "close"  # the rest of the body is not wanted
            await send(message)

        try:
            if not inside:
                self._admit(scope, headers, record)
            await self.app(scope, self._bounded(scope, headers, receive), answer)
        except ApiError as error:
            await error_response(error)(scope, receive, answer)
        except Exception as error:
            trace = "".join(traceback.format_exception(error)[-TRACEBACK_LINES:])
            self.logs.write("error", id=record.id, problem=repr(error), trace=trace)
            if status == 0 and is_disk_full(error):
                await error_response(disk_full_error())(scope, receive, answer)
            elif status == 0:
                body = error_body(
                    500, f"the server failed; its log has more under the request's id, {record.id}"
                )
                await _json(500, body, answer, scope, receive)
        finally:
            self._finish(scope, record, status)

    def _admit(self, scope: Scope, headers: Headers, record: RequestRecord) -> None:
        check_host(scope["method"], headers, self.hosts)
        path = scope["path"]
        if self.keys is not None and path.startswith(AUTHENTICATED):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            key = find_key(self.keys, given.strip()) if scheme.lower() == "bearer" and given else None
            if key is None:
                what = (
                    "this API key is not known"
                    if given
                    else "an API key is needed: Authorization: Bearer KEY"
                )
                raise ApiError(401, what, None, "invalid_api_key", {"WWW-Authenticate": "Bearer"})
            record.key = key.name
        if (
            scope["method"] == "POST"
            and path.startswith(AUTHENTICATED)
            and (late := self.rates.of(record.key).admit())
        ):
            raise too_many_requests(
                f"too many requests or tokens in a minute; try again in {late:.0f} s", late
            )

    def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """`receive` that minds the body's size and time."""
        most = self.limits.upload if scope["path"] == UPLOAD_PATH else self.limits.body
        if (packed := headers.get("content-encoding", "identity").lower()) != "identity":
            text = f"Content-Encoding: {packed[:40]} is not taken; send the body as it is"
            raise ApiError(415, text, None, "unsupported_content_encoding", {"Accept-Encoding": "identity"})
        given = headers.get("content-length", "0").lstrip("0") or "0"
        if given.isdecimal() and (len(given) > MAX_LENGTH_DIGITS or int(given) > most):
            given = given[:MAX_LENGTH_DIGITS]
            raise ApiError(
                413,
                f"the body has {int(given):,} bytes, and at most {most:,} are taken",
                None,
                "request_too_large",
            )
        seconds, size, over = self.limits.body_seconds, 0, False
        deadline = time.monotonic() + seconds

        async def bounded() -> Message:
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
            if size > most:
                raise ApiError(413, f"the body has more than {most:,} bytes", None, "request_too_large")
            return message

        return bounded

    def _finish(self, scope: Scope, record: RequestRecord, status: int) -> None:
        seconds = time.perf_counter() - record.began
        tokens = (record.prompt_tokens or 0) + (record.completion_tokens or 0)
        if tokens:
            self.rates.of(record.key).used(tokens)
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
    """Places in a body for a header: names of strangers are escaped as in addresses, and a long list is cut
    and counted."""
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
