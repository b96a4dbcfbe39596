"""Sixteen requests at once: newleaf's engine beside llama.cpp's batched one, in one process, interleaved.

    python -m benchmarks.serving_engine [gpt2-124m] [--repeats 3] [--kinds bf16,int8,int4] [--requests 16]

Random weights of the size's shape. Every request has a prompt of 100 tokens, the first 64 of them the same,
and writes 128 greedy tokens. llama.cpp takes them through its own calls: prompts in batches of up to 512
tokens, the shared beginning once, then batches of one token for each sequence, with the argmax of whole
logits taken by NumPy. `total` counts written tokens over the whole time, prompts included; `writing` leaves
the prompts out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.decode import GGUF, LlamaCpp, random_network, write_gguf
from benchmarks.vocabulary import tokenizer_of
from newleaf.families import size
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT

PROMPT, SHARED, NEW = 100, 64, 128


class Newleaf:
    """The engine, from submitting to the last piece."""

    def __init__(self, network: GPT, requests: int) -> None:
        self.engine = Engine(network, tokenizer_of(network.config.vocab_size), slots=requests, limit=4 << 30)

    def run(self, prompts: list[list[int]]) -> tuple[float, float]:
        config = SamplingConfig(max_tokens=NEW, min_tokens=NEW, temperature=0, speculation="off")
        begin = time.perf_counter()
        requests = [self.engine.submit(prompt, config) for prompt in prompts]
        while not all(sample.row.written for request in requests for sample in request.samples):
            time.sleep(0.001)
        first = time.perf_counter()
        for request in requests:
            for _ in request:
                pass
        return begin - time.perf_counter(), first - time.perf_counter()


class Batched(LlamaCpp):
    """llama.cpp with a sequence for each request."""

    def __init__(self, path: Path, threads: int, requests: int) -> None:
        super().__init__(path, threads)
        lib = self.lib
        lib.llama_free(self.context)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = requests * (PROMPT + NEW + 8), 512, 512
        params.n_seq_max, params.n_threads, params.n_threads_batch, params.kv_unified = (
            requests,
            threads,
            threads,
            True,
        )
        self.context = lib.llama_init_from_model(self.model, params)
        self.batch = lib.llama_batch_init(512, 0, 1)

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Rows of (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for number, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[number], batch.pos[number], batch.logits[number] = token, position, wanted
            batch.n_seq_id[number], batch.seq_id[number][0] = 1, sequence
        if self.lib.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp could not read the tokens")

    def _argmax(self, row: int) -> int:
        return int(
            np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, row), (self.vocab,)).argmax()
        )

    def run(self, prompts: list[list[int]]) -> tuple[float, float]:
        begin = time.perf_counter()
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, True)
        self._decode([(token, at, 0, False) for at, token in enumerate(prompts[0][:SHARED])])
        for sequence in range(1, len(prompts)):
            # the shared beginning is read once, as newleaf reads it
            self.lib.llama_memory_seq_cp(memory, 0, sequence, -1, -1)
        rows = [
            (token, at, s, at == PROMPT - 1)
            for s, ids in enumerate(prompts)
            for at, token in enumerate(ids)
            if at >= SHARED
        ]
        tokens: list[int] = [0] * len(prompts)
        for start in range(0, len(rows), 512):
            part = rows[start : start + 512]
            self._decode(part)
            for number, (_, _, sequence, wanted) in enumerate(part):
                if wanted:
                    tokens[sequence] = self._argmax(number)
        first = time.perf_counter()
        for written in range(NEW - 1):
            self._decode([(token, PROMPT + written, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [self._argmax(row) for row in range(len(prompts))]
        return begin - time.perf_counter(), first - time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2-124m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", default="bf16,int8,int4")
    parser.add_argument("--requests", type=int, default=16)
    args = parser.parse_args()
    import llama_cpp

    config, threads = size(args.model), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Any] = {}
        for kind in args.kinds.split(","):
            engines[f"newleaf {kind}"] = Newleaf(random_network(config, kind), args.requests)
            for peer in GGUF[kind]:
                engines[f"llama.cpp {peer}"] = Batched(
                    write_gguf(config, peer, Path(folder)), threads, args.requests
                )
        rng = np.random.default_rng(0)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for repeat in range(args.repeats + 1):
            start = rng.integers(0, 250, SHARED).tolist()
            prompts = [start + rng.integers(0, 250, PROMPT - SHARED).tolist() for _ in range(args.requests)]
            for name, engine in engines.items():
                time.sleep(0.05)  # until the last engine's threads have stopped spinning
                whole, writing = engine.run(prompts)
                if repeat:  # the first round warms up
                    found[name].append((-args.requests * NEW / whole, -args.requests * (NEW - 1) / writing))
    title = (
        f"{args.model}: {args.requests} requests at once, tokens/s, medians of {args.repeats} interleaved "
        f"rounds (least–most); "
        f"{threads} threads; torch {torch.__version__}, llama-cpp-python {llama_cpp.__version__}"
    )
    table = Table(
        "engine", f"total ({PROMPT} read, {SHARED} of them shared, {NEW} written)", "writing", title=title
    )
    for name, pairs in found.items():
        columns = list(zip(*pairs, strict=True))
        table.add_row(
            name,
            *(
                f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})"
                for values in columns
            ),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
