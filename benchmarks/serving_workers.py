"""Processes that a serving benchmark asks for rounds: `clients`, which stream from a server, and `engine`,
newleaf's without HTTP.

Each reads a JSON object a line and answers with one: what a round took, and the processor's seconds that this
process spent on it. The clients keep what comes with its time and look into it afterwards, since what they do
during a round is taken from the server's cores.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FIRST = re.compile(rb'"(?:content|text)": ?"[^"]')
USAGE = re.compile(rb'"(?:completion|prompt)_tokens": ?\d+')


@dataclass
class Round:
    """What came of many requests at once: seconds in all, and to each first token; tokens written and read;
    this process's seconds."""

    seconds: float
    firsts: list[float]
    written: int
    read: int
    busy: float


def stream_all(
    host: str, port: int, bodies: Sequence[dict[str, Any]], path: str = "/v1/chat/completions"
) -> Round:
    """Ask for all bodies at once and read to the end of each answer. Raises SystemExit with an answer that is
    no stream."""
    busy, begin = time.process_time(), time.perf_counter()
    came: list[list[tuple[float, bytes]]] = [[] for _ in bodies]
    with selectors.DefaultSelector() as waiting:
        for number, body in enumerate(bodies):
            data = json.dumps(body).encode()
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: "
                f"application/json\r\nConnection: close\r\n"
            )
            connection = socket.create_connection((host, port))
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            waiting.register(connection, selectors.EVENT_READ, came[number])
        while waiting.get_map():
            for key, _ in waiting.select():
                connection = key.fileobj  # type: ignore[assignment]
                part = connection.recv(1 << 16)
                if part:
                    key.data.append((time.perf_counter(), part))
                else:
                    waiting.unregister(connection)
                    connection.close()
    found = Round(time.perf_counter() - begin, [], 0, 0, time.process_time() - busy)
    for parts in came:
        _look(parts, begin, found)
    return found


def _look(parts: list[tuple[float, bytes]], begin: float, found: Round) -> None:
    whole = b"".join(part for _, part in parts)
    events = whole.count(b"data: {")
    if not events:
        raise SystemExit(f"no stream: {whole[:600]!r}")
    text = b""
    for at, part in parts:
        text = text[-40:] + part
        if FIRST.search(text):
            found.firsts.append(at - begin)
            break
    usage = {
        name: int(value)
        for name, value in (each.replace(b'"', b"").split(b":") for each in USAGE.findall(whole))
    }
    found.written += usage.get(b"completion_tokens", events - 2)
    found.read += usage.get(b"prompt_tokens", 0)


class Alone:
    """newleaf's engine, driven by the thread that asks."""

    def __init__(self, path: str, weights: str | None, slots: int) -> None:
        from newleaf.api import load

        self.model = load(path, weights)
        self.engine = self.model.engine(slots)

    def round_of(self, asked: Sequence[Any], tokens: int) -> Round:
        """Conversations, rendered and encoded before the clock starts."""
        from newleaf.generate.options import SamplingConfig
        from newleaf.text.chat_template import RenderOptions

        config = SamplingConfig(max_tokens=tokens, min_tokens=tokens, temperature=0)
        prompts = [
            self.model.chat_template.encode(messages, RenderOptions(add_generation_prompt=True)).ids
            for messages in asked
        ]
        firsts: dict[int, float] = {}
        busy, begin = time.process_time(), time.perf_counter()
        for piece in self.engine.write(prompts, config, ends=self.model.end_ids):
            if piece.prompt not in firsts:
                firsts[piece.prompt] = time.perf_counter() - begin
        seconds = time.perf_counter() - begin
        return Round(
            seconds,
            list(firsts.values()),
            len(prompts) * tokens,
            sum(map(len, prompts)),
            time.process_time() - busy,
        )


class Worker:
    """One of these processes, from the side that asks."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "benchmarks.serving_workers", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **question: Any) -> Round:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]
        return Round(**json.loads(line))

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    kind, *words = sys.argv[1:]
    alone = (
        Alone(words[0], None if words[1] == "stored" else words[1], int(words[2]))
        if kind == "engine"
        else None
    )
    for line in sys.stdin:
        question = json.loads(line)
        found = alone.round_of(**question) if alone is not None else stream_all(**question)
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
