"""Throughput of a small model: 1, 16 and 64 texts at once, in the engine and over HTTP (table 6).

    python -m benchmarks.small_models [--repeats 5] [--tokens 100] [--other PYTHON] [--json FILE]

The model has the shape of the one that `newleaf demo` trains, 1.4 M weights (4 layers × 128, 4,096 tokens,
context 128), with random weights in fp32. Every text has a prompt of 20 random tokens, new in each round, and
generates greedy tokens until the context is full. Before the clock starts, the texts of engine and server are
compared with a loop that runs the network over the full text for each token. `--other` is the Python of an
environment with another newleaf, whose server takes turns in the same rounds. Server and clients are
processes of their own; those that have no turn are suspended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import add_json_option, row, write_json
from benchmarks.serving_peers import Peer, alone, free_port, letters_tokenizer
from benchmarks.serving_workers import Worker
from newleaf.api import Model, load
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig

SHAPE = GPTConfig(
    vocab_size=4096, context_length=128, n_layer=4, n_head=2, n_embd=128, n_kv_head=2, n_inner=384,
    norm="rms_norm", norm_eps=1e-6, qk_norm=True, positions="rotary", activation="silu", gated=True,
    attention_bias=False, attention_out_bias=False, feedforward_bias=False,
)  # fmt: skip
PROMPT, AT_ONCE = 20, (1, 16, 64)


def servers(folder: Path, other: str | None) -> Iterator[Peer]:
    for name, python in (("", sys.executable), ("other, ", other)):
        for slots in AT_ONCE if python else ():
            port = free_port()
            words = ["serve", f"m={folder}", "--port", str(port), "--log", "off", "--slots", str(slots)]
            yield Peer(f"{name}HTTP, {slots}", [str(python), "-m", "newleaf", *words], port, "m", {})


def check(model: Model, engine: Engine, peer: Peer, tokens: int) -> None:
    """Assert that greedy text of the engine and of the server is that of the network, token by token."""
    prompt = np.random.default_rng(1).integers(300, 4000, PROMPT).tolist()
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model.network(torch.tensor([ids]))[0, -1].argmax()))
    wanted = model.tokenizer.decode_after(prompt, ids[PROMPT:])
    config = SamplingConfig(max_tokens=tokens, temperature=0)
    assert "".join(piece.text for piece in engine.write([prompt], config)) == wanted
    body = {"model": "m", "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{peer.port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as found:
        assert json.load(found)["choices"][0]["text"] == wanted


def written(engine: Engine, prompts: list[list[int]], tokens: int) -> float:
    """Seconds that the engine takes for them."""
    config = SamplingConfig(max_tokens=tokens, min_tokens=tokens, temperature=0, speculation="off")
    begin = time.perf_counter()
    for _ in engine.write(prompts, config):
        pass
    return time.perf_counter() - begin


def asked(clients: Worker, peer: Peer, prompts: list[list[int]], tokens: int) -> float:
    """Seconds that the server takes for them, a client each."""
    own = {"model": "m", "max_tokens": tokens, "min_tokens": tokens, "temperature": 0, "stream": True}
    bodies = [own | {"prompt": prompt} for prompt in prompts]
    return clients.ask(host="127.0.0.1", port=peer.port, bodies=bodies, path="/v1/completions").seconds


def measure(folder: Path, repeats: int, tokens: int, other: str | None) -> dict[str, list[float]]:
    """Tokens a second of every way in every round."""
    model, peers, clients = load(folder / "model"), list(servers(folder / "model", other)), Worker("clients")
    engines = {count: model.engine(count) for count in AT_ONCE}
    rng, rates = np.random.default_rng(0), dict[str, list[float]]()
    try:
        for peer in peers:
            peer.start(folder / "log")
        check(model, engines[1], peers[0], tokens)
        for repeat in range(-1, repeats):  # the first round warms up
            for turn in [*AT_ONCE, *peers]:
                name, count = (
                    (f"engine, {turn}", turn)
                    if isinstance(turn, int)
                    else (turn.name, int(turn.name.rsplit(" ", 1)[1]))
                )
                prompts = rng.integers(300, 4000, (count, PROMPT)).tolist()
                with alone(None if isinstance(turn, int) else turn, peers):
                    time.sleep(0.3)  # until other threads have stopped spinning
                    seconds = (
                        written(engines[turn], prompts, tokens)
                        if isinstance(turn, int)
                        else asked(clients, turn, prompts, tokens)
                    )
                if repeat >= 0:
                    rates.setdefault(name, []).append(count * tokens / seconds)
    finally:
        for peer in peers:
            peer.stop()
        clients.end()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--other", metavar="PYTHON", help="of an environment with another newleaf")
    add_json_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        network = GPT(SHAPE).eval()
        Model(network, letters_tokenizer(SHAPE.vocab_size), "qwen3").save(Path(name) / "model")
        rates = measure(Path(name), args.repeats, args.tokens, args.other)
    threads = torch.get_num_threads()
    table = Table(
        "",
        "tokens/s",
        title=f"{network.parameter_count():,} weights; {args.tokens} tokens a text, {threads} threads",
    )
    for way, values in rates.items():
        table.add_row(way, f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})")
    Console(width=140).print(table)
    rows = [row("newleaf", "fp32", way, "tokens/s", values) for way, values in rates.items()]
    write_json(args.json, "small_models", {"weights": network.parameter_count(), "tokens": args.tokens}, rows)
    if args.other:
        before, after = statistics.median(rates["other, HTTP, 16"]), statistics.median(rates["HTTP, 64"])
        print(f"64 clients here write {after / before:.1f} × what 16 clients of the other do")


if __name__ == "__main__":
    main()
