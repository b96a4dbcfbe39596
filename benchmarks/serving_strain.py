"""A server under strain: many connections at once beside streams that nobody reads, and its memory over many requests."""

from __future__ import annotations

import asyncio
import json
import resource
import time

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
        print(f"{count:>7,} requests  {rss / 1e6:8.1f} MB  {peer.info.num_threads()} threads  {seconds:6.0f} s", flush=True)


def flood(peer: Peer, count: int, idle: int) -> None:
    """Streams that are held open unread, many connections at once, and then what became of both."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
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
        answers["answered" if status == b"200" else "told to come later" if status in (b"429", b"503") else "closed"] += 1

    begin = time.perf_counter()
    await asyncio.gather(*(one(body) for body in request[:count]))
    print(f"{count:,} connections at once beside {idle} idle streams: {answers} in {time.perf_counter() - begin:.1f} s")
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
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port, limit=1 << 20)
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer
