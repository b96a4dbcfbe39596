"""Processes that run llguidance, one for each grammar: started, asked within limits of time, and ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_process import Channel

PROGRAM = Path(__file__).with_name("grammar_process.py")
START_SECONDS = 120.0
COMPILE_SECONDS = 10.0
# for comparing a value with a schema: its expressions may search for ever, and an answer waits for it
CHECK_SECONDS = 3.0
STEP_SECONDS = 10.0  # for a mask; llguidance's own limits end one after some tens of milliseconds


class ProcessLostError(Exception):
    """The process ended, or did not answer in time."""


class GrammarHost:
    """Opens processes for grammars over one vocabulary. The first call starts a process that holds the
    vocabulary; the others fork it."""

    def __init__(
        self, description: Callable[[], dict[str, Any]], encode: Callable[[str], Sequence[int]]
    ) -> None:
        self._description, self._encode = description, encode
        self._forks = hasattr(os, "fork") and hasattr(socket, "send_fds")
        self._lock = threading.Lock()
        self._first: tuple[subprocess.Popen[bytes], Channel] | None = None

    def open(self) -> GrammarProcess:
        """A process without a grammar yet. Raises InputError when it does not start."""
        if not self._forks:
            process, channel = self._start()
            return GrammarProcess(channel, self._encode, process.kill, process.pid)
        with self._lock:
            if self._first is None or self._first[0].poll() is not None:
                self._first = self._start()
                self._finalizer = weakref.finalize(self, _end, *self._first)
            ours, theirs = socket.socketpair()
            try:
                socket.send_fds(self._first[1].connection, [b"f"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise InputError("the process that checks constraints has ended") from None
            finally:
                theirs.close()
        channel = Channel(ours)
        ours.settimeout(START_SECONDS)
        try:
            number = struct.unpack("<I", channel.receive()[1])[0]
        except (OSError, EOFError):
            ours.close()
            raise InputError("the process that checks constraints did not start") from None
        return GrammarProcess(channel, self._encode, lambda: _kill(number), number)

    def close(self) -> None:
        """End the process that holds the vocabulary; the next `open` starts another."""
        with self._lock:
            if self._first is not None:
                self._finalizer()
                self._first = None

    def _start(self) -> tuple[subprocess.Popen[bytes], Channel]:
        process, connection = _forking() if self._forks else _connecting()
        channel = Channel(connection)
        connection.settimeout(START_SECONDS)
        try:
            channel.send(b"V", json.dumps(self._description()).encode())
            channel.receive()
        except (OSError, EOFError):
            _end(process, channel)
            raise InputError(
                "the process that checks constraints did not start; is llguidance installed?"
            ) from None
        return process, channel


class GrammarProcess:
    """One grammar in a process of its own; calls take turns, so threads may share it."""

    def __init__(
        self, channel: Channel, encode: Callable[[str], Sequence[int]], kill: Callable[[], None], number: int
    ) -> None:
        self._channel, self._encode = channel, encode
        self.number = number  # of the process
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._dropped: deque[int] = deque()
        self._kill = kill
        self.lost = self.retired = False
        # the process ends when it sees that
        self._finalizer = weakref.finalize(self, channel.connection.close)

    def compile(self, request: dict[str, Any]) -> dict[str, Any]:
        """What became of a grammar. Raises LostError, as all calls do, when the process ends on it or takes
        too long."""
        found: dict[str, Any] = json.loads(self._ask(b"C", json.dumps(request).encode(), COMPILE_SECONDS))
        return found

    def check(self, schema: Any, value: Any) -> list[str] | None:
        """Where a value does not fit a schema."""
        found: list[str] | None = json.loads(
            self._ask(b"J", json.dumps({"schema": schema, "value": value}).encode(), CHECK_SECONDS)
        )
        return found

    def fork(self, matcher: int, tokens: Sequence[int] = ()) -> int:
        """A new matcher at the place of this one, and after these tokens."""
        number = next(self._numbers)
        self._tell(b"F", struct.pack("<II", matcher, number))
        if tokens:
            self.take(number, tokens)
        return number

    def drop(self, matcher: int) -> None:
        """The matcher is not needed any more. Garbage collection may call this anywhere, so nothing is sent
        yet."""
        self._dropped.append(matcher)

    def take(self, matcher: int, tokens: Sequence[int]) -> bytes:
        """The state after these tokens: STOPPED and ERROR in its first byte, and what went wrong."""
        return self._ask(b"T", _packed(matcher, tokens), STEP_SECONDS)

    def mask(self, matcher: int) -> bytes:
        """The state's first byte, and a bit for each token that may follow; none where limits were
        reached."""
        return self._ask(b"M", _packed(matcher, ()), STEP_SECONDS)

    def fitting(self, matcher: int, tokens: Sequence[int]) -> int:
        found: int = struct.unpack("<I", self._ask(b"N", _packed(matcher, tokens), STEP_SECONDS))[0]
        return found

    def close(self) -> None:
        """End the process. Whoever still has a matcher there gets LostError."""
        self.lost = True
        self._finalizer()

    def retire(self) -> None:
        """End it to make room for others. Whoever still has a matcher there begins again in a new one."""
        self.retired = True
        with self._lock:
            self.close()

    def _tell(self, kind: bytes, data: bytes) -> None:
        with self._lock:
            self._send(kind, data)

    def _ask(self, kind: bytes, data: bytes, seconds: float) -> bytes:
        with self._lock:
            self._send(kind, data, seconds)
            try:
                while True:
                    answer, found = self._channel.receive()
                    if answer != b"E":
                        return found
                    ids = self._encode(found.decode("utf-8", "replace"))
                    self._send(b"A", struct.pack(f"<{len(ids)}I", *ids))
            except (ConnectionError, EOFError):
                self._fail()
            # too late; or Ctrl-C: a reply that nobody reads would be taken for the next one's
            except BaseException as error:
                # it lives, since its end of the connection is open, so the number is still its own
                self._kill()
                self.close()
                if isinstance(error, TimeoutError):
                    raise ProcessLostError from None
                raise

    def _send(self, kind: bytes, data: bytes, seconds: float | None = None) -> None:
        if self.lost:
            raise ProcessLostError
        try:
            if seconds is not None:
                self._channel.connection.settimeout(seconds)
            while self._dropped:
                self._channel.send(b"D", struct.pack("<I", self._dropped.popleft()))
            self._channel.send(kind, data)
        except OSError:
            self._fail()

    def _fail(self) -> NoReturn:
        self.close()
        raise ProcessLostError from None


def _packed(matcher: int, tokens: Sequence[int]) -> bytes:
    return struct.pack(f"<{1 + len(tokens)}I", matcher, *tokens)


def _forking() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    # A session of its own keeps Ctrl-C away until the process can see to that itself; -P keeps our folder off
    # its path.
    command = [sys.executable, "-P", str(PROGRAM), "fork", str(theirs.fileno())]
    nothing = subprocess.DEVNULL  # a crash there is told by us
    process = subprocess.Popen(
        command,
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        pass_fds=[theirs.fileno()],
        start_new_session=True,
    )
    theirs.close()
    return process, ours


def _connecting() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Where the system cannot fork or hand a socket on: through a port of this machine, to which nobody else
    knows the word."""
    word = secrets.token_bytes(32)
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-P", str(PROGRAM), "connect", str(server.getsockname()[1])]
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing)
        assert process.stdin is not None
        process.stdin.write(f"{word.hex()}\n".encode())
        process.stdin.close()
        server.settimeout(START_SECONDS)
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                process.kill()
                raise InputError(
                    "the process that checks constraints did not start; is llguidance installed?"
                ) from None
            connection.settimeout(START_SECONDS)
            with contextlib.suppress(OSError, EOFError):
                if secrets.compare_digest(Channel(connection).read(len(word)), word):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return process, connection
            connection.close()


def _kill(process: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], channel: Channel) -> None:
    channel.connection.close()
    process.kill()
    process.wait()
