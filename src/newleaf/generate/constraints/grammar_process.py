"""A process of its own that runs llguidance: grammars in, masks out, in binary messages over a socket.

llguidance is native code. A stranger's grammar can make it overflow the stack or use up memory, which ends a
process. So it runs here and never in the program (see generate/constraints/grammar_host.py). This is run as a
file and imports nothing of newleaf.

The first process holds the vocabulary and forks: each grammar has a process of its own. Where the system
cannot fork, the first process serves one grammar itself. Each message is a length (4 bytes), a letter and its
data:

    from the program                                        to the program
    V  the vocabulary, JSON                                 R  it is ready
    C  a grammar, JSON {"kind", "text", …}                  R  JSON {"error", "empty", "stopped"}
    F  matcher, new matcher: the same place, once more      none
    D  matcher: it is no longer wanted                      none
    T  matcher, tokens: they were written                   S  state
    M  matcher                                              M  state (1 byte), then a bit for each token
    J  a schema and a value, JSON                           J  JSON, where the value does not fit; or null
    N  matcher, tokens                                      N  how many of them, the first ones, may follow
    A  ids, the answer to E                                 E  text that is to be encoded
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import struct
import sys
import threading
from typing import Any

MEMORY = 2 << 30  # bytes of address space, beyond what the vocabulary takes
STACK = 128 << 20  # bytes; deep grammars recurse
STOPPED, ERROR = 1, 2  # bits of a state: nothing but the end may follow; something went wrong


class Channel:
    """Messages over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, kind: bytes, data: bytes = b"") -> None:
        self.connection.sendall(struct.pack("<I", len(data)) + kind + data)

    def receive(self) -> tuple[bytes, bytes]:
        """Raises EOFError when the other side is gone."""
        head = self.read(5)
        return head[4:], self.read(struct.unpack("<I", head[:4])[0])

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.connection.recv(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Vocabulary:
    """The tokenizer as llguidance wants it: the bytes of each id, and ids for text, which the program is
    asked for."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.eos_token_id = description["eos"]
        self.bos_token_id = description["bos"]
        self.special_token_ids = description["special"]
        self.tokens = [text.encode("latin-1") for text in description["tokens"]]
        self.channel: Channel | None = None

    def __call__(self, text: str) -> list[int]:
        data = text.encode()  # llguidance tries bytes first, which fail here, so that it gives text
        if self.channel is None:
            return []
        self.channel.send(b"E", data)
        _, ids = self.channel.receive()
        return list(struct.unpack(f"<{len(ids) // 4}I", ids))


class Server:
    """One grammar and the places where texts stand in it, by number; 0 is its beginning."""

    def __init__(self, channel: Channel, tokenizer: Any) -> None:
        self.channel, self.tokenizer = channel, tokenizer
        self.matchers: dict[int, Any] = {}

    def serve(self) -> None:
        """Until the program closes the connection."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, data = self.channel.receive()
                self._answer(kind, data)

    def _answer(self, kind: bytes, data: bytes) -> None:
        if kind == b"C":
            self.channel.send(b"R", json.dumps(self._compile(json.loads(data))).encode())
            return
        if kind == b"J":
            self.channel.send(b"J", json.dumps(check(**json.loads(data))).encode())
            return
        number, *numbers = struct.unpack(f"<{len(data) // 4}I", data)
        if kind == b"F":
            self.matchers[numbers[0]] = self.matchers[number].deep_copy()
        elif kind == b"D":
            self.matchers.pop(number, None)
        elif kind == b"T":
            self.matchers[number].consume_tokens(numbers)
            self.channel.send(b"S", self._state(number))
        elif kind == b"N":
            matcher = self.matchers[number]
            self.channel.send(
                b"N", struct.pack("<I", 0 if matcher.is_error() else matcher.validate_tokens(numbers))
            )
        elif kind == b"M":
            self.channel.send(b"M", self._mask(number))

    def _compile(self, request: dict[str, Any]) -> dict[str, Any]:
        from llguidance import LLMatcher, LLParserLimits

        kind, text = request["kind"], request["text"]
        if kind == "json_schema":
            grammar = LLMatcher.grammar_from_json_schema(text)
        else:
            grammar = (
                LLMatcher.grammar_from_regex(text) if kind == "regex" else LLMatcher.grammar_from_lark(text)
            )
        limits = LLParserLimits(max_lexer_states=request["states"], verbose_errors=False)
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits)
        self.matchers = {0: matcher}
        if matcher.is_error():
            return {"error": matcher.get_error()}
        mask = self._mask(0)
        problem = matcher.get_error() if mask[0] & ERROR else ""
        return {"error": "", "empty": problem or not any(mask[1:]), "stopped": bool(mask[0] & STOPPED)}

    def _mask(self, number: int) -> bytes:
        matcher, mask = self.matchers[number], b""
        if not matcher.is_error():
            with contextlib.suppress(ValueError):  # the limits on time and memory
                mask = matcher.compute_bitmask()
        return self._state(number)[:1] + (b"" if matcher.is_error() else mask)

    def _state(self, number: int) -> bytes:
        matcher = self.matchers[number]
        failed = matcher.is_error()
        return bytes([matcher.is_stopped() * STOPPED | failed * ERROR]) + (
            matcher.get_error().encode() if failed else b""
        )


def check(schema: Any, value: Any) -> list[str] | None:
    """Where a value does not fit a schema. Expressions of strangers are matched here, which may take for
    ever.

    A registry of our own, empty, because jsonschema's default fetches what a reference names from the
    network.
    """
    try:
        import jsonschema
        import referencing

        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        errors = itertools.islice(kind(schema, registry=referencing.Registry()).iter_errors(value), 10)
        return [f"/{'/'.join(map(str, error.absolute_path))}: {error.message}"[:300] for error in errors]
    except Exception:  # a schema that is not valid, a reference to elsewhere
        return None


def limit() -> None:
    """The limits of a process for one grammar."""
    # not on Windows; not where a lower limit holds already
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = 0
        with contextlib.suppress(OSError), open("/proc/self/statm") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def serve(connection: socket.socket, vocabulary: Vocabulary, tokenizer: Any) -> None:
    """One grammar, on a stack that is large enough for deep ones."""
    vocabulary.channel = Channel(connection)
    limit()
    threading.stack_size(STACK)
    thread = threading.Thread(target=Server(vocabulary.channel, tokenizer).serve, daemon=True)
    thread.start()
    thread.join()


def main() -> None:
    # Ctrl-C is for the program, which ends this one by closing the connection
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    forks = sys.argv[1] == "fork"
    if forks:
        connection = socket.socket(fileno=int(sys.argv[2]))
    else:
        connection = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(bytes.fromhex(sys.stdin.readline()))
    from llguidance import LLTokenizer, TokenizerWrapper

    channel = Channel(connection)
    vocabulary = Vocabulary(json.loads(channel.receive()[1]))
    tokenizer = LLTokenizer(TokenizerWrapper(vocabulary))
    channel.send(b"R")
    if not forks:
        serve(connection, vocabulary, tokenizer)
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # processes that end leave nothing behind
    while True:
        try:
            data, (descriptor, *_), _, _ = socket.recv_fds(connection, 1, 1)
        except (OSError, ValueError):
            return
        if not data:
            return
        if os.fork() == 0:
            connection.close()
            own = socket.socket(fileno=descriptor)
            Channel(own).send(b"P", struct.pack("<I", os.getpid()))
            serve(own, vocabulary, tokenizer)
            os._exit(0)
        os.close(descriptor)


if __name__ == "__main__":
    main()
