"""Sixteen clients at once over HTTP: newleaf's server beside its engine alone, llama.cpp's servers and `transformers serve`.

    python -m benchmarks.serving MODEL [--repeats 3] [--weights int8] [--llama-server PATH] [--skip transformers,llama-cpp-python]
    python -m benchmarks.serving MODEL --flood           # 2,000 connections at once, beside 500 streams that nobody reads
    python -m benchmarks.serving tiny --requests 10000   # the server's memory on the way

MODEL is a .gguf of a chat model, or a size (gpt2-124m) for random weights of that shape, which all servers get as one Q8_0 file. Each client
sends a conversation of about 100 tokens, the first 64 of them the same for all, new in every round, and streams 128 greedy tokens (servers
that cannot be told to go on after the end of a turn may write fewer; tokens are counted by each server's own usage, or by its events where it
tells none). Clients are one process that keeps what comes and looks into it afterwards; the engine without HTTP is another, which is given the
same conversations as ids. All take turns in every round, in alternating order, and whoever has no turn is stopped. "HTTP costs" is what the
server takes longer than the engine, the median of the rounds; "clients" and "event loop" are processor's seconds for a second of the round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving_peers import CLIENTS, NEW, Peer, alone, conversations, is_shape, model_file, newleaf_server, peers_of
from benchmarks.serving_strain import flood, memory
from benchmarks.serving_workers import Round, Worker


def compare(args: argparse.Namespace) -> None:
    rng, short = np.random.default_rng(0), is_shape(args.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = model_file(args.model, folder)
        peers = peers_of(args, path, folder)
        kinds = args.weights.split(",") if args.engine else []
        engines = {kind: Worker("engine", str(path), kind, str(CLIENTS)) for kind in kinds}
        without: dict[str, list[Round]] = {kind: [] for kind in kinds}
        clients = Worker("clients")
        try:
            for peer in peers:
                peer.start(folder / "log")
            for repeat in range(-1, args.repeats):  # the first, with fewer, loads models and compiles
                asked = conversations(rng, CLIENTS if repeat >= 0 else 2, short)
                turns: list[Peer | str] = [*peers, *kinds]
                for turn in turns if repeat % 2 else turns[::-1]:
                    with alone(turn if isinstance(turn, Peer) else None, peers):
                        if isinstance(turn, Peer):
                            before = turn.seconds()
                            found = clients.ask(host="127.0.0.1", port=turn.port, bodies=turn.bodies(asked, args.tokens))
                            turn.busy.append(tuple(after - was for after, was in zip(turn.seconds(), before, strict=True)))  # type: ignore[arg-type]
                            turn.rounds.append(found)
                        else:
                            without[turn].append(engines[turn].ask(asked=asked, tokens=args.tokens))
        finally:
            for each in (*peers, *engines.values(), clients):
                each.stop() if isinstance(each, Peer) else each.end()
    table = Table("server", "tokens/s", "first token, median", "95th percentile", "clients", "event loop", "HTTP costs")
    table.title = f"{Path(args.model).name}: {CLIENTS} clients, {args.tokens} tokens each, {args.repeats} rounds, {args.threads} threads"
    for peer in peers:
        rounds, kind = peer.rounds[1:], peer.name.removeprefix("newleaf ")
        share = statistics.median(each.busy / each.seconds for each in rounds)
        loop = statistics.median(main / each.seconds for (_, main), each in zip(peer.busy[1:], rounds, strict=True))
        costs = [each.seconds / plain.seconds - 1 for each, plain in zip(rounds, without.get(kind, ())[1:], strict=False)]
        costs = costs if peer.name.startswith("newleaf ") else []
        cost = f"{statistics.median(costs):+.1%} ({min(costs):+.1%} to {max(costs):+.1%})" if costs else ""
        table.add_row(*_row(peer.name, rounds), f"{share:.1%}", f"{loop:.1%}" if peer.name.startswith("newleaf ") else "", cost)
    for kind in kinds:
        table.add_row(*_row(f"newleaf {kind}, engine alone", without[kind][1:]), "", "", "")
    Console(width=150).print(table)
    print(f"{statistics.median(each.read for peer in peers for each in peer.rounds[1:] if each.read) / CLIENTS:.0f} tokens a prompt")


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
    args = parser.parse_args()
    args.threads = torch.get_num_threads()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not args.flood and not args.requests:
        compare(args)
        return
    with tempfile.TemporaryDirectory() as name:
        peer = newleaf_server(model_file(args.model, Path(name)), args.weights.split(",")[0])
        peer.start(Path(name) / "log")
        try:
            flood(peer, args.flood, args.idle) if args.flood else memory(peer, args.requests)
        finally:
            peer.stop()


if __name__ == "__main__":
    main()
