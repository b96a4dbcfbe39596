"""Connections: how many there may be, how long headers may take, and how large they may be. uvicorn has no
limits of its own here."""

from __future__ import annotations

import asyncio
import json
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from newleaf.serve.api_errors import error_body
from newleaf.serve.http.server_settings import Limits

# A request to speak another protocol. Servers may ignore it (RFC 9110, 7.8); the parser would take what
# follows, a body as well, for the
# other protocol. Java's HTTP client asks for HTTP/2 in this way with each first request.
UPGRADE_NAME = re.compile(rb"(?i)(?<=\n)upgrade(?=:)")
IGNORED_NAME = b"x-asked"  # of the same length
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Connection(HttpToolsProtocol):
    """One connection. `limits` is set by `connection_class`."""

    limits: Limits
    _waiting: asyncio.TimerHandle | None = None  # ends the connection while a request's head is not whole
    _head_bytes = 0
    _in_head = True
    _seen = 0
    _silent = True
    _before = b""  # the end of a line, where one has come last
    _held = b""  # behind it, what may be the beginning of UPGRADE's name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections", "too_many_connections")
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._silent = False
        super().data_received(self._without_upgrade(data) if self._in_head else data)
        # The rest of what came with a whole head is its body; what is still a head is counted.
        if self._in_head and self._head_bytes > self.limits.header_bytes and not self.transport.is_closing():
            self._refuse_head()

    def _without_upgrade(self, data: bytes) -> bytes:
        """Bytes that begin in a head, with the name of a header that asks for another protocol exchanged."""
        known = len(self._before)  # of the bytes before these
        data = self._before + self._held + data
        end = data.find(b"\r\n\r\n")
        head, rest = (data, b"") if end < 0 else (data[:end], data[end:])
        start = head.rfind(b"\n", -len(IGNORED_NAME) - 1) + 1
        name = head[start:] if start and end < 0 else b""
        self._held = name if b"upgrade".startswith(name.lower()) else b""
        head = head[: len(head) - len(self._held)]
        self._before = b"\n" if head.endswith(b"\n") and end < 0 else b""
        return UPGRADE_NAME.sub(IGNORED_NAME, head)[known:] + rest

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._seen = True, 0
        if self._waiting is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """What the parser does not take, which may be that a callback of ours stopped it."""
        if self._seen > self.limits.header_bytes:
            self._refuse_head()
        else:
            self._refuse(400, "this is not an HTTP request", "invalid_request")

    def _refuse_head(self) -> None:
        self._refuse(
            431, f"the request's head has more than {self.limits.header_bytes:,} bytes", "headers_too_large"
        )

    def _count(self, size: int) -> None:
        self._seen += size
        if self._seen > self.limits.header_bytes:
            raise ValueError("the head is too large")  # stops the parser

    def _expect_head(self) -> None:
        self._waiting = self.loop.call_later(self.limits.header_seconds, self._late)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._waiting = None
        if self._silent:
            self.transport.close()  # nobody asked for anything
        elif not self.transport.is_closing():
            self._refuse(408, f"no request came in {self.limits.header_seconds:g} seconds", "request_timeout")

    def _refuse(self, status: int, message: str, code: str) -> None:
        body = json.dumps(error_body(status, message, None, code)).encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_class(limits: Limits) -> type[Connection]:
    """The class of connections with these limits; uvicorn makes one of each connection."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
