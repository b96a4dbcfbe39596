"""HTTP connections with limits on their number, and on the time and size of headers.

uvicorn has no such limits.
"""

from __future__ import annotations

import asyncio
import json
import re

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from newleaf.serve.api_errors import error_body
from newleaf.serve.http.server_settings import Limits

# A server may ignore the Upgrade header (RFC 9110, 7.8). The parser would take what follows, a body too, for
# the other protocol. Java's HTTP client offers HTTP/2 so with each first request.
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
    _head_timer: asyncio.TimerHandle | None = None  # closes a connection whose head is incomplete
    _head_bytes = 0
    _in_head = True
    _parsed_bytes = 0
    _no_data = True
    _last_line_end = b""  # a line end, if that is the last byte received
    _partial_name = b""  # bytes after it that may begin the Upgrade header's name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "too many connections", "too_many_connections")
        else:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        self._no_data = False
        super().data_received(self._without_upgrade(data) if self._in_head else data)
        # Bytes after a complete head are its body; only those of an incomplete head are counted.
        if self._in_head and self._head_bytes > self.limits.header_bytes and not self.transport.is_closing():
            self._refuse_head()

    def _without_upgrade(self, data: bytes) -> bytes:
        """Data that begins in a head, with the name of the Upgrade header replaced."""
        known = len(self._last_line_end)  # of the bytes before `data`
        data = self._last_line_end + self._partial_name + data
        end = data.find(b"\r\n\r\n")
        head, rest = (data, b"") if end < 0 else (data[:end], data[end:])
        start = head.rfind(b"\n", -len(IGNORED_NAME) - 1) + 1
        name = head[start:] if start and end < 0 else b""
        self._partial_name = name if b"upgrade".startswith(name.lower()) else b""
        head = head[: len(head) - len(self._partial_name)]
        self._last_line_end = b"\n" if head.endswith(b"\n") and end < 0 else b""
        return UPGRADE_NAME.sub(IGNORED_NAME, head)[known:] + rest

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._parsed_bytes = True, 0
        if self._head_timer is None:
            self._start_head_timer()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self._stop_head_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._in_head, self._head_bytes = True, 0

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refuses, which may be since a callback here stopped it."""
        if self._parsed_bytes > self.limits.header_bytes:
            self._refuse_head()
        else:
            self._refuse(400, "this is not an HTTP request", "invalid_request")

    def _refuse_head(self) -> None:
        self._refuse(
            431, f"the request's head has more than {self.limits.header_bytes:,} bytes", "headers_too_large"
        )

    def _count(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > self.limits.header_bytes:
            raise ValueError("the head is too large")  # stops the parser

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._no_data:
            self.transport.close()  # no request was begun
        elif not self.transport.is_closing():
            self._refuse(408, f"no request came in {self.limits.header_seconds:g} seconds", "request_timeout")

    def _refuse(self, status: int, message: str, code: str) -> None:
        body = json.dumps(error_body(status, message, None, code)).encode()
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


def connection_class(limits: Limits) -> type[Connection]:
    """A protocol class with these limits, of which uvicorn makes an instance for each connection."""
    return type("LimitedConnection", (Connection,), {"limits": limits})
