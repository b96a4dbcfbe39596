"""Sixteen clients over HTTP: newleaf's server, its engine alone, llama.cpp's servers, `transformers serve`.

    python -m benchmarks.serving MODEL [--repeats 3] [--weights int8] [--llama-server PATH]
        [--skip transformers,llama-cpp-python] [--json FILE]
    python -m benchmarks.serving MODEL --flood           # 2,000 connections beside 500 unread streams
    python -m benchmarks.serving tiny --requests 10000   # the server's memory over many requests
    python -m benchmarks.serving tiny --health           # latency of /health during each heavy request

MODEL is a .gguf of a chat model, or a size (gpt2-124m) for random weights of that shape, which all servers
get as one Q8_0 file. Each client sends a conversation of about 100 tokens, new in every round; the first 64
tokens are the same for all. It streams 128 greedy tokens. A server that has no option to go on after the end
of a turn may generate fewer. Tokens are counted by each server's own usage, or by its events if it has none.
All clients are one process, which parses the answers after the round. The engine without HTTP is another
process, which gets the same conversations as token ids. All take turns in every round, in alternating order;
those that have no turn are suspended. "HTTP costs" is how much longer the server takes than the engine, the
median of the rounds; "clients" and "event loop" are CPU seconds per second of the round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import add_json_option, row, write_json
from benchmarks.serving_peers import (
    CLIENTS,
    NEW,
    Peer,
    alone,
    conversations,
    is_shape,
    model_file,
    newleaf_server,
    peers_of,
)
from benchmarks.serving_strain import flood, health, memory
from benchmarks.serving_workers import Round, Worker


def compare(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model_file(args.model, folder)
        peers = peers_of(args, path, folder)
        kinds = args.weights.split(",") if args.engine else []
        engines = {kind: Worker("engine", str(path), kind, str(CLIENTS)) for kind in kinds}
        clients = Worker("clients")
        try:
            for peer in peers:
                peer.start(folder / "log")
            without = take_turns(args, peers, engines, clients)
        finally:
            for peer in peers:
                peer.stop()
            for worker in (*engines.values(), clients):
                worker.end()
    print_table(args, peers, without)
    rows = [each for peer in peers for each in json_rows(peer.name, peer.rounds)]
    rows += [
        each for kind, rounds in without.items() for each in json_rows(f"newleaf {kind}", rounds, "engine")
    ]
    settings = {"model": Path(args.model).name, "clients": CLIENTS, "tokens": args.tokens}
    write_json(args.json, "serving", settings, rows)


def json_rows(name: str, rounds: list[Round], through: str = "HTTP") -> list[dict[str, Any]]:
    contender, _, precision = name.partition(" ")
    return [
        row(
            contender,
            precision,
            f"{CLIENTS} texts, {through}",
            "tokens/s",
            [each.written / each.seconds for each in rounds],
        ),
        row(
            contender,
            precision,
            f"first token, {through}",
            "s",
            [first for each in rounds for first in each.firsts],
        ),
    ]


def take_turns(
    args: argparse.Namespace, peers: list[Peer], engines: dict[str, Worker], clients: Worker
) -> dict[str, list[Round]]:
    """Run the rounds; return the engines' (a server's go to `Peer.rounds`).

    The first round, with fewer clients, loads models and compiles kernels; it is not counted.
    """
    rng, without = np.random.default_rng(0), {kind: list[Round]() for kind in engines}
    for repeat in range(-1, args.repeats):
        asked = conversations(rng, CLIENTS if repeat >= 0 else 2, is_shape(args.model))
        turns: list[Peer | str] = [*peers, *engines]
        for turn in turns if repeat % 2 else turns[::-1]:
            with alone(turn if isinstance(turn, Peer) else None, peers):
                if isinstance(turn, Peer):
                    (whole, main), bodies = turn.seconds(), turn.bodies(asked, args.tokens)
                    found = clients.ask(host="127.0.0.1", port=turn.port, bodies=bodies)
                    then = turn.seconds()
                    if repeat >= 0:
                        turn.rounds.append(found)
                        turn.busy.append((then[0] - whole, then[1] - main))
                else:
                    found = engines[turn].ask(asked=asked, tokens=args.tokens)
                    without[turn] += [found] if repeat >= 0 else []
    return without


def print_table(args: argparse.Namespace, peers: list[Peer], without: dict[str, list[Round]]) -> None:
    table = Table(
        "server", "tokens/s", "first token, median", "95th percentile", "clients", "event loop", "HTTP costs"
    )
    table.title = (
        f"{Path(args.model).name}: {CLIENTS} clients, {args.tokens} tokens each, {args.repeats} rounds, "
        f"{args.threads} threads"
    )
    for peer in peers:
        own, kind = peer.name.startswith("newleaf "), peer.name.removeprefix("newleaf ")
        share = statistics.median(each.busy / each.seconds for each in peer.rounds)
        loop = statistics.median(
            main / each.seconds for (_, main), each in zip(peer.busy, peer.rounds, strict=True)
        )
        plain = without.get(kind, []) if own else []
        costs = [each.seconds / one.seconds - 1 for each, one in zip(peer.rounds, plain, strict=False)]
        cost = f"{statistics.median(costs):+.1%} ({min(costs):+.1%} to {max(costs):+.1%})" if costs else ""
        table.add_row(*_row(peer.name, peer.rounds), f"{share:.1%}", f"{loop:.1%}" if own else "", cost)
    for kind, rounds in without.items():
        table.add_row(*_row(f"newleaf {kind}, engine alone", rounds), "", "", "")
    Console(width=150).print(table)
    if read := [each.read for peer in peers for each in peer.rounds if each.read]:
        print(f"{statistics.median(read) / CLIENTS:.0f} tokens a prompt")


def _row(name: str, rounds: list[Round]) -> tuple[str, ...]:
    speeds = [each.written / each.seconds for each in rounds]
    firsts = [first for each in rounds for first in each.firsts]
    spread = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})"
    return name, spread, f"{np.median(firsts):.3f} s", f"{np.percentile(firsts, 95):.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a .gguf of a chat model, a size such as gpt2-124m, or tiny")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=NEW)
    parser.add_argument("--weights", default="int8,int4", help="newleaf's, or stored; several with commas")
    parser.add_argument("--llama-server", help="the path of llama.cpp's own server, which batches")
    parser.add_argument("--skip", default="", help="llama-cpp-python, transformers")
    parser.add_argument("--no-engine", dest="engine", action="store_false")
    parser.add_argument("--continuous", action="store_true", help="transformers' continuous batching")
    parser.add_argument("--flood", type=int, nargs="?", const=2000)
    parser.add_argument("--idle", type=int, default=500)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--health", action="store_true")
    add_json_option(parser)
    args = parser.parse_args()
    args.threads = torch.get_num_threads()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not args.flood and not args.requests and not args.health:
        compare(args)
        return
    with tempfile.TemporaryDirectory() as name:
        # A small prefix cache is soon full, so that what grows afterwards is a leak.
        words = ["--cache", "4M"] if args.requests else []
        peer = newleaf_server(model_file(args.model, Path(name)), args.weights.split(",")[0], *words)
        peer.start(Path(name) / "log")
        try:
            if args.health:
                health(peer)
            else:
                flood(peer, args.flood, args.idle) if args.flood else memory(peer, args.requests)
        finally:
            peer.stop()


if __name__ == "__main__":
    main()
