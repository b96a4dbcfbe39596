"""A server under strain: many connections at once beside streams that nobody reads, its memory over many
requests, and how soon it answers while it has heavy work."""

from __future__ import annotations

import asyncio
import http.client
import json
import resource
import threading
import time
from typing import Any

import numpy as np

from benchmarks.serving_peers import CLIENTS, Peer, conversations
from benchmarks.serving_workers import stream_all


def memory(peer: Peer, requests: int) -> None:
    """The server's resident memory over many short streams, sixteen at a time."""
    rng, began = np.random.default_rng(0), time.perf_counter()
    peer.extra.pop("min_tokens")
    count = 0
    for part in range(11):
        while count < requests * part // 10:
            stream_all("127.0.0.1", peer.port, peer.bodies(conversations(rng, CLIENTS, True), 8))
            count += CLIENTS
        rss, seconds = peer.info.memory_info().rss, time.perf_counter() - began
        print(
            f"{count:>7,} requests  {rss / 1e6:8.1f} MB  {peer.info.num_threads()} threads  {seconds:6.0f} s",
            flush=True,
        )


def flood(peer: Peer, count: int, idle: int) -> None:
    """Streams that are held open unread, many connections at once, and then what became of both."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2
    )
    peer.extra.pop("min_tokens")
    asyncio.run(_flood(peer, count, idle))


async def _flood(peer: Peer, count: int, idle: int) -> None:
    rng, answers = np.random.default_rng(0), {"answered": 0, "told to come later": 0, "closed": 0}
    request = [peer.bodies(conversations(rng, 1, True), 1)[0] for _ in range(count + 1)]
    held = [await _open(peer, peer.bodies(conversations(rng, 1, True), 8)[0]) for _ in range(idle)]

    async def one(body: dict[str, object]) -> None:
        try:
            reader, writer = await _open(peer, {**body, "stream": False, "stream_options": None})
            answer = await reader.read()
            writer.close()
        except OSError:
            answer = b""
        status = answer[9:12]
        answers[
            "answered"
            if status == b"200"
            else "told to come later"
            if status in (b"429", b"503")
            else "closed"
        ] += 1

    begin = time.perf_counter()
    await asyncio.gather(*(one(body) for body in request[:count]))
    print(
        f"{count:,} connections at once beside {idle} idle streams: {answers} in "
        f"{time.perf_counter() - begin:.1f} s"
    )
    whole = later = 0
    for reader, writer in held:
        found = await reader.read()
        whole += found.rstrip().endswith(b"0") and b"data: [DONE]" in found
        later += found[9:12] in (b"429", b"503")
        writer.close()
    print(f"the idle streams, read at last: {whole} whole, {later} had been told to come later")
    answers.update(dict.fromkeys(answers, 0))
    await one(request[count])
    print(f"afterwards: {answers}; {peer.info.memory_info().rss / 1e6:.0f} MB")


async def _open(peer: Peer, body: dict[str, object]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    data = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
        "application/json\r\nConnection: close\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port, limit=1 << 20)
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


def health(peer: Peer, repeats: int = 3) -> None:
    """How long /health takes at worst while each heavy request is being answered, by the real clock; on an
    idle machine below 100 ms."""
    print(
        f"{'request':<44} {'status':>6} {'seconds':>8} {'/health, ms: median':>20} {'worst':>7} {'asked':>6}",
        flush=True,
    )
    for name, path, body in [("nothing", "", b""), *_heavy(peer.model)]:
        worst, every, seconds, status = 0.0, list[float](), 0.0, ""
        for _ in range(repeats):
            answer: list[str] = []
            thread = threading.Thread(target=_send, args=(peer.port, path, body, answer))
            begin = time.perf_counter()
            thread.start()
            while thread.is_alive() or (not path and time.perf_counter() - begin < 1):
                found = _asked(peer.port)
                worst, every = max(worst, found), [*every, found]
                time.sleep(0.005)
            seconds, status = max(seconds, time.perf_counter() - begin), answer[0]
        median = sorted(every)[len(every) // 2]
        print(
            f"{name:<44} {status:>6} {seconds:>8.2f} {1e3 * median:>20.1f} {1e3 * worst:>7.1f} "
            f"{len(every):>6}",
            flush=True,
        )


def _heavy(model: str) -> list[tuple[str, str, bytes]]:
    """Requests whose work could hold up everything else, as large as the limits let them be."""

    def body(**fields: Any) -> bytes:
        return json.dumps({"model": model, **fields}).encode()

    chat, text = "/v1/chat/completions", "/v1/completions"
    words = "every word of it counts " * 160_000
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {f"p{n}": {"type": "string", "pattern": f"^a{n}"} for n in range(5000)},
    }
    chain = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(20_000)}
    long = {"$ref": "#/$defs/d0", "$defs": {**chain, "d20000": {"const": 2**60 + 1}}}
    slow = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(?=(a+)+$)b", "enum": ["a" * 40 + "b"]}},
        "required": ["a"],
    }
    return [
        ("1,000,000 ids in prompt", text, body(prompt=[1] * 1_000_000, max_tokens=1)),
        ("1,000,000 ids, the last one a text", text, body(prompt=[*[1] * 1_000_000, "a"], max_tokens=1)),
        (
            "200 kB of names of control tokens",
            chat,
            body(messages=[{"role": "user", "content": "<|im_end|>" * 20_000}]),
        ),
        ("4 MB of text to /tokenize", "/tokenize", body(prompt=words)),
        ("4 MB of text in a chat", chat, body(messages=[{"role": "user", "content": words}])),
        ("10,000 messages", chat, body(messages=[{"role": "user", "content": "a " * 150}] * 10_000)),
        ("embeddings of 128 × 512 ids", "/v1/embeddings", body(input=[[1] * 512] * 128)),
        (
            "scores of 64 × 512 ids of a prompt",
            text,
            body(prompt=[[1] * 512] * 64, max_tokens=1, echo=True, logprobs=1),
        ),
        ("a schema of 5,000 patterns", text, body(prompt="a", json_schema=schema, max_tokens=1)),
        ("20,000 references in a chain", text, body(prompt="a", json_schema=long, max_tokens=1)),
        (
            "a check that never ends",
            chat,
            body(messages=[{"role": "user", "content": "a"}], response_format=_format(slow), max_tokens=200),
        ),
        (
            "a response of 3 MB of input that is stored",
            "/v1/responses",
            body(input=words[:3_000_000], truncation="auto"),
        ),
        ("a body of 4 MB that is no JSON", chat, b'{"messages": [' + b'{"role": "user"}, ' * 200_000),
    ]


def _format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def _send(port: int, path: str, body: bytes, answer: list[str]) -> None:
    """Note the status, once all of the answer is there."""
    if not path:
        answer.append("")
        return
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        got = connection.getresponse()
        got.read()
        answer.append(str(got.status))
    except OSError:
        answer.append("closed")
    finally:
        connection.close()


def _asked(port: int) -> float:
    """Seconds that /health takes, with a connection of its own."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", "/health")
    connection.getresponse().read()
    connection.close()
    return time.perf_counter() - begin
