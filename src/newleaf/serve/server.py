"""Runs the application: the socket, the first model, signals and graceful shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from fastapi import APIRouter

from newleaf.errors import InputError
from newleaf.serve.api_errors import ApiError
from newleaf.serve.app import create_app
from newleaf.serve.http.connection import connection_class
from newleaf.serve.models.server_context import ServerContext

KEEP_ALIVE_SECONDS = 75  # of an idle connection
# The GIL's switch interval: the engine's thread waits for the GIL after each step.
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """uvicorn's server, which exits with code 0 on SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal starts a graceful shutdown; the second does not wait for running requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket to listen on; port 0 takes any free port. Raises InputError when it cannot be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        raise InputError(
            f"{host}:{port}: cannot be bound ({(error.strerror or str(error)).lower()})"
        ) from None
    return found


def serve(
    server_context: ServerContext,
    listening: socket.socket,
    on_ready: Callable[[], None],
    more: Sequence[APIRouter] = (),
) -> None:
    """Load the first model and serve until a signal. Raises InputError when the model cannot be loaded."""
    raise_open_file_limit(server_context.limits.connections)
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        create_app(server_context, more),
        http=connection_class(server_context.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(server_context.settings.proxies),
        forwarded_allow_ips=list(server_context.settings.proxies),
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(server_context.limits.drain_seconds) or 1,
    )

    async def run() -> None:
        await load_first_model(server_context)
        server = Server(config)
        watching = asyncio.create_task(_when_started(server, on_ready))
        try:
            await server.serve([listening])
        finally:
            watching.cancel()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


async def load_first_model(server_context: ServerContext) -> None:
    """Load the first model at the start, so that errors show at once and the first request is fast."""
    try:
        server_context.registry.release(await server_context.registry.acquire(None))
    except ApiError as error:
        raise InputError(str(error.detail)) from None


async def _when_started(server: uvicorn.Server, on_ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    on_ready()


def raise_open_file_limit(count: int) -> None:
    """Each connection is an open file; many systems allow 1,024 by default."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; not where it is forbidden
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 512
        if soft < wanted:
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (min(wanted, hard) if hard != resource.RLIM_INFINITY else wanted, hard),
            )
