"""Servers to compare: newleaf's, llama.cpp's own, llama-cpp-python's and `transformers serve`, all with the
weights of one .gguf."""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from benchmarks.serving_workers import Round
from newleaf.api import Model, load
from newleaf.families import size
from newleaf.model import GPT, GPTConfig
from newleaf.text.tokenizer import Tokenizer

CLIENTS, NEW = 16, 128
USAGE = {"stream_options": {"include_usage": True}}
SYSTEM = (
    "You are a careful assistant in a library. You answer every question in full sentences, name the shelf "
    "where more can be found, and "
    "never invent a book that is not there. When a question is not about books, you say so kindly and "
    "answer all the same, as briefly."
)
SHORT = "Sixty-four letters that begin every conversation with the model: "[:64]  # where a letter is a token
WORDS = [
    "river",
    "stone",
    "garden",
    "winter",
    "letter",
    "bridge",
    "candle",
    "forest",
    "window",
    "market",
    "silver",
    "thunder",
    "island",
]
PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass
class Peer:
    """A server: how it is started, what is added to a request for it, and what was measured."""

    name: str
    command: list[str]
    port: int
    model: str
    extra: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    rounds: list[Round] = field(default_factory=list)
    # processor's seconds of a round: all threads, and the main one
    busy: list[tuple[float, float]] = field(default_factory=list)

    def start(self, log: Path) -> None:
        self.process = subprocess.Popen(self.command, stdout=log.open("ab"), stderr=subprocess.STDOUT)
        end = time.monotonic() + 240
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).close()
                return
            except urllib.error.HTTPError as answer:
                if answer.code != 503:  # llama-server's while it loads its model
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(
            f"{' '.join(self.command)} did not start:\n{log.read_text('utf-8', 'replace')[-2000:]}"
        )

    @property
    def info(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def seconds(self) -> tuple[float, float]:
        """Of the processor, by all threads so far and by the main one (newleaf's event loop)."""
        info = self.info
        times, main = info.cpu_times(), next((each for each in info.threads() if each.id == info.pid), None)
        return times.user + times.system, (main.user_time + main.system_time) if main is not None else 0.0

    def bodies(self, asked: list[Any], tokens: int = NEW) -> list[dict[str, Any]]:
        fixed = {"model": self.model, "max_tokens": tokens, "temperature": 0, "stream": True, **self.extra}
        return [{**fixed, "messages": messages} for messages in asked]

    def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(psutil.Error):
                self.info.resume()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()


@contextlib.contextmanager
def alone(running: Peer | None, peers: list[Peer]) -> Iterator[None]:
    """Only this server runs: what others do when they are idle is theirs."""
    for peer in peers:
        if peer.process is not None:
            peer.info.resume() if peer is running else peer.info.suspend()
    time.sleep(0.05)
    yield


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_shape(name: str) -> bool:
    """Whether this is a size's name, and no file's."""
    return not name.endswith(".gguf")


def model_file(name: str, folder: Path) -> Path:
    """The .gguf of this name; of a size (gpt2-124m) or "tiny", one with random weights, a byte a token, in
    Q8_0."""
    if not is_shape(name):
        return Path(name)
    config = GPTConfig(512, 1024, 1, 2, 32) if name == "tiny" else size(name)
    torch.manual_seed(0)
    Model(GPT(config).eval(), letters_tokenizer(config.vocab_size), "gpt2").save(
        folder / f"{name}.gguf", type="Q8_0"
    )
    return folder / f"{name}.gguf"


def letters_tokenizer(size: int) -> Tokenizer:
    """A byte a token, then tokens that are only written; with one merge, since GGUF knows no vocabulary
    without."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, "ĠĠ", *(f" x{number}".replace(" ", "Ġ") for number in range(257, size))]
    backend = tokenizers.Tokenizer(
        models.BPE({name: number for number, name in enumerate(names)}, [("Ġ", "Ġ")])
    )
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    return Tokenizer(backend, settings={"chat_template": PLAIN})


def conversations(rng: np.random.Generator, count: int, short: bool) -> list[list[dict[str, str]]]:
    """Of about 100 tokens, the first 64 the same for all."""
    if short:
        # Words again and again: tokenizers keeps the last 10,000 different ones, 1.3 kB each, which would
        # look like a leak.
        letters = [" ".join(rng.choice(WORDS, 8))[:36] for _ in range(count)]
        return [[{"role": "user", "content": SHORT + each}] for each in letters]
    asked = [" ".join(rng.choice(WORDS, 22)) for _ in range(count)]
    return [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Write about: {words}."}]
        for words in asked
    ]


def newleaf_server(path: Path, kind: str, *words: str) -> Peer:
    port = free_port()
    weights = [] if kind == "stored" else ["--weights", kind]
    command = [
        sys.executable,
        "-m",
        "newleaf",
        "serve",
        f"m={path}",
        "--port",
        str(port),
        "--log",
        "off",
        *weights,
        *words,
    ]
    return Peer(f"newleaf {kind}", command, port, "m", {"min_tokens": NEW, **USAGE})


def peers_of(args: argparse.Namespace, path: Path, folder: Path) -> list[Peer]:
    peers = [newleaf_server(path, kind) for kind in args.weights.split(",")]
    threads = str(args.threads)
    if args.llama_server:
        port = free_port()
        command = [
            args.llama_server,
            "-m",
            str(path),
            "--port",
            str(port),
            "-np",
            str(CLIENTS),
            "-t",
            threads,
            "-c",
            str(CLIENTS * 512),
        ]
        peers.append(
            Peer(
                "llama-server", [*command, "--no-webui", "--jinja"], port, "m", {"ignore_eos": True, **USAGE}
            )
        )
    if "llama-cpp-python" not in args.skip:
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "llama_cpp.server",
            "--model",
            str(path),
            "--port",
            str(port),
            "--n_ctx",
            "1024",
        ]
        command += ["--n_threads", threads, "--n_threads_batch", threads, "--interrupt_requests", "false"]
        peers.append(Peer("llama_cpp.server", command, port, "m", {}))
    if "transformers" not in args.skip:
        port = free_port()
        load(path, "bf16").save(folder / "m")
        command = [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            str(folder / "m"),
            "--port",
            str(port),
        ]
        command += [
            "--dtype",
            "bfloat16",
            "--device",
            "cpu",
            *(["--continuous-batching"] if args.continuous else []),
        ]
        peers.append(Peer("transformers serve bf16", command, port, str(folder / "m"), {}))
    return peers
