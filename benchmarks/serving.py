"""Sixteen clients at once over HTTP: newleaf's server beside llama.cpp's (of llama-cpp-python, or a llama-server) and `transformers serve`.

    python -m benchmarks.serving MODEL.gguf [--repeats 3] [--weights int8] [--llama-server PATH] [--skip transformers,...]
    python -m benchmarks.serving MODEL.gguf --flood 2000      # connections at once, and 500 streams that nobody reads
    python -m benchmarks.serving MODEL.gguf --requests 10000  # the server's memory on the way

Real weights of a chat model. Each client sends a conversation of about 100 tokens, the first 64 of them the same for all, new in every
round, and streams 128 greedy tokens (servers that cannot be told to go on after the end of a turn may write fewer; tokens are counted by
each server's own usage, or by its events where it tells none). The clients are one process of asyncio that reads sockets and looks for
"data:". The last line is newleaf's engine without HTTP on the same conversations, from a thread in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from newleaf.api import Model, load
from newleaf.generate.options import SamplingConfig
from newleaf.text.chat_template import Rendering

CLIENTS, NEW = 16, 128
SYSTEM = (
    "You are a careful assistant in a library. You answer every question in full sentences, name the shelf where more can be found, and "
    "never invent a book that is not there. When a question is not about books, you say so kindly and answer all the same, as briefly."
)
WORDS = ["river", "stone", "garden", "winter", "letter", "bridge", "candle", "forest", "window", "market", "silver", "thunder", "island"]


@dataclass
class Peer:
    """A server: how it is started, what is added to a request for it, and what was measured."""

    name: str
    command: list[str]
    url: str
    model: str
    extra: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    speeds: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)

    def start(self, log: Path) -> None:
        self.process = subprocess.Popen(self.command, stdout=log.open("ab"), stderr=subprocess.STDOUT)
        wait_for(self.url, self.process, log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()


@contextlib.contextmanager
def paused(peers: list[Peer], but: Peer) -> Iterator[None]:
    """Only one server may run at a time; what others do when idle is theirs."""
    for peer in peers:
        if peer.process is not None:
            psutil.Process(peer.process.pid).suspend() if peer is not but else psutil.Process(peer.process.pid).resume()
    yield


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, port = url.removeprefix("http://").split(":")
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.2)
    raise SystemExit(f"{' '.join(process.args)} did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}")  # type: ignore[arg-type]


def conversations(rng: np.random.Generator, count: int) -> list[list[dict[str, str]]]:
    asked = [" ".join(rng.choice(WORDS, 22)) for _ in range(count)]
    return [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Write about: {words}."}] for words in asked]


async def stream(peer: Peer, messages: list[dict[str, str]], tokens: int = NEW, read: bool = True) -> tuple[float, int]:
    """Seconds to the first token, and how many tokens came."""
    host, port = peer.url.removeprefix("http://").split(":")
    body = {"model": peer.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True, **peer.extra}
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    begin, first, events, usage = time.perf_counter(), 0.0, 0, 0
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + data)
    kept = b""
    while read and (part := await reader.read(65536)):
        if not first and re.search(rb'"content": ?"[^"]', part):
            first = time.perf_counter() - begin
        events += part.count(b"data: {")
        kept = (kept + part)[-2000:]
    if not read:
        await asyncio.sleep(3600)
    if found := re.search(rb'"completion_tokens": ?(\d+)', kept):
        usage = int(found[1])
    writer.close()
    if not events:
        raise SystemExit(f"{peer.name}: {kept[:600]!r}")
    return first, usage or events - 2


async def round_of(peer: Peer, asked: list[list[dict[str, str]]]) -> tuple[float, list[float]]:
    begin = time.perf_counter()
    found = await asyncio.gather(*(stream(peer, messages) for messages in asked))
    return sum(tokens for _, tokens in found) / (time.perf_counter() - begin), [first for first, _ in found]


class Engine:
    """newleaf's engine alone."""

    def __init__(self, model: Model) -> None:
        self.model, self.engine = model, model.engine(CLIENTS)
        self.speeds: list[float] = []
        self.firsts: list[float] = []

    def round_of(self, asked: list[list[dict[str, str]]]) -> tuple[float, list[float]]:
        config = SamplingConfig(max_tokens=NEW, min_tokens=NEW, temperature=0, speculation="off")
        begin = time.perf_counter()
        prompts = [self.model.chat_template.encode(messages, Rendering(add_generation_prompt=True)).ids for messages in asked]
        requests = [self.engine.submit(prompt, config) for prompt in prompts]
        firsts: list[float] = []
        while not all(request.ended for request in requests):
            firsts += [time.perf_counter() - begin] * (sum(bool(each.samples[0].row.written) for each in requests) - len(firsts))
            time.sleep(0.002)
        return CLIENTS * NEW / (time.perf_counter() - begin), firsts


def peers_of(args: argparse.Namespace, folder: Path) -> list[Peer]:
    path, skip = args.model, args.skip.split(",")
    peers = []
    for kind in args.weights.split(","):
        port = free_port()
        weights = [] if kind == "stored" else ["--weights", kind]
        command = [sys.executable, "-m", "newleaf", "serve", f"m={path}", "--port", str(port), "--log", "off", *weights]
        extra = {"min_tokens": NEW, "stream_options": {"include_usage": True}}
        peers.append(Peer(f"newleaf {kind}", command, f"http://127.0.0.1:{port}", "m", extra))
    if args.llama_server and "llama.cpp" not in skip:
        port = free_port()
        command = [args.llama_server, "-m", path, "--port", str(port), "-np", "16", "-t", "2", "-c", str(CLIENTS * 512)]
        peers.append(
            Peer("llama-server", command, f"http://127.0.0.1:{port}", "m", {"ignore_eos": True, "stream_options": {"include_usage": True}})
        )
    elif "llama.cpp" not in skip:
        port = free_port()
        command = [sys.executable, "-m", "llama_cpp.server", "--model", path, "--port", str(port), "--n_ctx", "2048", "--n_threads", "2"]
        command += ["--n_threads_batch", "2", "--interrupt_requests", "false"]
        peers.append(Peer("llama_cpp.server", command, f"http://127.0.0.1:{port}", "m", {}))
    if "transformers" not in skip:
        port = free_port()
        load(path, "bf16").save(folder / "m")
        command = [str(Path(sys.executable).with_name("transformers")), "serve", "--port", str(port), "--force-model", str(folder / "m")]
        command += (
            ["--dtype", "bfloat16", "--device", "cpu", "--continuous-batching"]
            if args.continuous
            else ["--dtype", "bfloat16", "--device", "cpu"]
        )
        peers.append(Peer("transformers serve bf16", command, f"http://127.0.0.1:{port}", str(folder / "m"), {}))
    return peers


def compare(args: argparse.Namespace) -> None:
    table = Table(
        "server",
        "tokens/s",
        "first token, median",
        "95th percentile",
        "n",
        title=f"{Path(args.model).name}: {CLIENTS} clients, {NEW} tokens each",
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peers = peers_of(args, folder)
        engine = Engine(load(args.model, None if (kind := args.weights.split(",")[0]) == "stored" else kind)) if args.engine else None
        try:
            for peer in peers:
                peer.start(folder / "log")
                asyncio.run(round_of(peer, conversations(rng, 2)))  # loads the model, compiles, …
            for _ in range(args.repeats):
                asked = conversations(rng, CLIENTS)
                for peer in peers:
                    with paused(peers, peer):
                        speed, firsts = asyncio.run(round_of(peer, asked))
                    peer.speeds.append(speed)
                    peer.firsts += firsts
                for peer in peers if engine else []:
                    assert peer.process is not None
                    psutil.Process(peer.process.pid).suspend()
                if engine:
                    speed, firsts = engine.round_of(asked)
                    engine.speeds.append(speed)
                    engine.firsts += firsts
                    time.sleep(0.05)
                for peer in peers if engine else []:
                    assert peer.process is not None
                    psutil.Process(peer.process.pid).resume()
        finally:
            for peer in peers:
                peer.stop()
    for name, each in [*((peer.name, peer) for peer in peers), *([("engine without HTTP", engine)] if engine else [])]:
        speeds, firsts = each.speeds, each.firsts
        if speeds:
            middle, late = np.median(firsts), np.percentile(firsts, 95)
            spread = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})"
            table.add_row(name, spread, f"{middle:.2f} s", f"{late:.2f} s", str(len(firsts)))
    Console(width=130).print(table)


def alone(args: argparse.Namespace, folder: Path, *words: str) -> Peer:
    args.skip = "llama.cpp,transformers"
    (peer,) = peers_of(args, folder)
    peer.command += words
    peer.start(folder / "log")
    return peer


def memory(args: argparse.Namespace) -> None:
    """Resident memory of the server over many short requests."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        peer = alone(args, Path(name))
        assert peer.process is not None
        process = psutil.Process(peer.process.pid)
        peer.extra = {}

        async def some(count: int) -> None:
            async def one() -> None:
                for _ in range(count // CLIENTS):
                    await stream(peer, conversations(rng, 1)[0], tokens=2)

            await asyncio.gather(*(one() for _ in range(CLIENTS)))

        try:
            rows = [(0, process.memory_info().rss)]
            for _ in range(10):
                asyncio.run(some(args.requests // 10))
                rows.append((rows[-1][0] + args.requests // 10, process.memory_info().rss))
        finally:
            peer.stop()
    for count, rss in rows:
        print(f"{count:>7,} requests  {rss / 1e6:8.1f} MB")


def flood(args: argparse.Namespace) -> None:
    """Streams that nobody reads, then many connections at once; those that were let in are answered."""
    rng = np.random.default_rng(0)
    counts = {"answered": 0, "told to come later": 0, "closed": 0}

    async def one(peer: Peer) -> None:
        host, port = peer.url.removeprefix("http://").split(":")
        data = json.dumps({"messages": conversations(rng, 1)[0], "max_tokens": 1}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + data)
            answer = await reader.read(1 << 20)
            writer.close()
        except OSError:
            answer = b""
        status = answer[9:12]
        counts["answered" if status == b"200" else "told to come later" if status in (b"429", b"503") else "closed"] += 1

    async def run(peer: Peer) -> None:
        idle = [asyncio.create_task(stream(peer, conversations(rng, 1)[0], tokens=8, read=False)) for _ in range(args.idle)]
        await asyncio.sleep(2)
        begin = time.perf_counter()
        await asyncio.gather(*(one(peer) for _ in range(args.flood)))
        print(f"{args.flood} connections at once, {args.idle} idle streams: {counts} in {time.perf_counter() - begin:.1f} s")
        for task in idle:
            task.cancel()
        await asyncio.gather(*idle, return_exceptions=True)
        counts.update(dict.fromkeys(counts, 0))
        await one(peer)
        print(f"afterwards: {counts}")

    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    with tempfile.TemporaryDirectory() as name:
        peer = alone(args, Path(name))
        peer.extra = {}
        try:
            asyncio.run(run(peer))
        finally:
            peer.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a .gguf of a chat model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", default="int8,int4", help="newleaf's, or stored; several with commas")
    parser.add_argument("--llama-server", help="a llama-server to compare with, in place of llama-cpp-python's")
    parser.add_argument("--skip", default="", help="llama.cpp, transformers")
    parser.add_argument("--no-engine", dest="engine", action="store_false")
    parser.add_argument("--continuous", action="store_true", help="transformers' continuous batching")
    parser.add_argument("--flood", type=int)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--requests", type=int)
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if args.flood:
        flood(args)
    elif args.requests:
        memory(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
