"""Decoding and prefill speed of one text: newleaf, transformers and llama.cpp at equal precision.

    python -m benchmarks.decode [gpt2-124m|gpt2-1.5b] [--repeats 5] [--kinds bf16,int8,int4]
        [--skip-transformers] [--beside 2] [--json FILE]

Weights are random, of the size's shape. Each engine reads a prompt of 32 tokens and generates 128 greedy
ones, each the argmax of all logits; then it reads a prompt of 512 at once. All engines are in one process and
take turns. GGUF files are written by newleaf; `pure` has the embedding and head in 4 bits too, as newleaf's
int4 has. A .gguf file may take the place of the size: llama.cpp opens it as it is, newleaf in each precision.
`--beside` starts this many other programs that compute meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import add_json_option, row, write_json
from benchmarks.vocabulary import tokenizer_of
from newleaf.api import Model, load
from newleaf.families import size
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed import FORMATS
from newleaf.quant.packed_layers import packable, put_packed
from newleaf.quant.quantize import quantize
from newleaf.storage import save_gguf as gguf_writer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

PROMPT, NEW, LONG = 32, 128, 512
GGUF = {"bf16": ["BF16"], "int8": ["Q8_0"], "int4": ["Q4_0", "Q4_0 pure"]}


class Newleaf:
    """The engine that `Model.generate` writes with, from ids to pieces of text."""

    def __init__(self, network: GPT) -> None:
        self.engine = Engine(network, tokenizer_of(network.config.vocab_size), slots=1, limit=4 << 30)

    def decode(self, ids: list[int]) -> float:
        config = SamplingConfig(max_tokens=NEW + 1, min_tokens=NEW + 1, temperature=0, speculation="off")
        begin, written = 0.0, 0
        for _, count in self.engine.answer(ids, config, (), {}):
            begin, written = begin or time.perf_counter(), count
        assert written == NEW + 1
        return time.perf_counter() - begin

    def read(self, ids: list[int]) -> float:
        begin = time.perf_counter()
        for _ in self.engine.answer(ids, SamplingConfig(max_tokens=1, temperature=0), (), {}):
            pass
        return time.perf_counter() - begin


class Peer:
    """Something that gives logits: the first ones for a prompt, then those after each token."""

    def start(self, ids: list[int]) -> np.ndarray:
        raise NotImplementedError

    def step(self, token: int) -> np.ndarray:
        raise NotImplementedError

    def decode(self, ids: list[int]) -> float:
        logits = self.start(ids)
        begin = time.perf_counter()
        for _ in range(NEW):
            logits = self.step(int(logits.argmax()))
        return time.perf_counter() - begin

    def read(self, ids: list[int]) -> float:
        begin = time.perf_counter()
        self.start(ids)
        return time.perf_counter() - begin


class Transformers(Peer):
    """Stock GPT-2 in bf16 with its cache."""

    def __init__(self, config: GPTConfig) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = GPT2Config(
            vocab_size=config.vocab_size, n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head
        )
        self.model = GPT2LMHeadModel(shape).to(torch.bfloat16).eval()

    @torch.inference_mode()
    def _run(self, ids: list[int], past: Any) -> np.ndarray:
        out = self.model(torch.tensor([ids]), past_key_values=past, use_cache=True, logits_to_keep=1)
        self.past = out.past_key_values
        return out.logits[0, -1].float().numpy()

    def start(self, ids: list[int]) -> np.ndarray:
        return self._run(ids, None)

    def step(self, token: int) -> np.ndarray:
        return self._run([token], self.past)


class LlamaCpp(Peer):
    """llama.cpp's own calls, without the Python wrapper's loop around them."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self.lib = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = (
            1024,
            LONG,
            LONG,
            threads,
            threads,
        )
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def _run(self, ids: list[int]) -> np.ndarray:
        tokens = (self.lib.llama_token * len(ids))(*ids)
        if self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama.cpp could not read the tokens")
        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, -1), (self.vocab,))

    def start(self, ids: list[int]) -> np.ndarray:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        return self._run(ids)

    def step(self, token: int) -> np.ndarray:
        return self._run([token])


def random_network(config: GPTConfig, kind: str) -> GPT:
    torch.manual_seed(0)
    network = GPT(config).eval()
    if kind == "bf16":
        return network.bfloat16()
    if kind in FORMATS:
        plain = network.state_dict()
        names = sorted(packable(network) - {"head.weight" if config.tie_embeddings else ""})
        for name in names:
            put_packed(network, name, quantize(plain[name], FORMATS[kind]))
        if config.tie_embeddings:
            put_packed(network, "head.weight", network.embedding.token.packed)
    return network


def write_gguf(config: GPTConfig, kind: str, folder: Path) -> Path:
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 300)
    path = folder / f"{kind}.gguf"
    finer = dict(gguf_writer.HIGHER_PRECISION)
    if kind.endswith("pure"):
        gguf_writer.HIGHER_PRECISION.clear()
    Model(random_network(config, "fp32"), tokenizer, "gpt2").save(path, kind.split()[0])
    gguf_writer.HIGHER_PRECISION.update(finer)
    return path


def engines_for(model: str, kinds: list[str], folder: Path, transformers: bool) -> dict[str, Any]:
    threads = torch.get_num_threads()
    if model.endswith(".gguf"):
        return {
            f"newleaf {kind}": Newleaf(load(model, None if kind == "stored" else kind).network)
            for kind in kinds
        } | {"llama.cpp, the file": LlamaCpp(Path(model), threads)}
    config = size(model)
    engines: dict[str, Any] = {"transformers bf16": Transformers(config)} if transformers else {}
    for kind in kinds:
        engines[f"newleaf {kind}"] = Newleaf(random_network(config, kind))
        engines |= {
            f"llama.cpp {peer}": LlamaCpp(write_gguf(config, peer, folder), threads) for peer in GGUF[kind]
        }
    return engines


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """So many other programs compute, each as much as one core can."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="gpt2-124m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", default="bf16,int8,int4")
    parser.add_argument("--skip-transformers", action="store_true")
    parser.add_argument("--beside", type=int, default=0, help="other programs that compute meanwhile")
    add_json_option(parser)
    args = parser.parse_args()
    import llama_cpp
    import numba
    import transformers

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, busy(args.beside):
        engines = engines_for(args.model, args.kinds.split(","), Path(folder), not args.skip_transformers)
        rates: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in engines}
        for repeat in range(args.repeats + 1):
            for name, engine in engines.items():
                time.sleep(0.05)  # until the last engine's threads have stopped spinning
                found = (
                    NEW / engine.decode(rng.integers(0, 256, PROMPT).tolist()),
                    LONG / engine.read(rng.integers(0, 256, LONG).tolist()),
                )
                if repeat:  # the first round warms up
                    for values, value in zip(rates[name], found, strict=True):
                        values.append(value)
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, llama-cpp-python "
        f"{llama_cpp.__version__}"
    )
    title = (
        f"{args.model}, tokens/s, medians of {args.repeats} interleaved rounds (least–most); "
        f"{torch.get_num_threads()} threads; {versions}"
    )
    if args.beside:
        title += f"; beside {args.beside} other programs"
    table = Table(
        "engine", f"{NEW} new tokens", f"prompt of {LONG}", title=f"{title}, numba {numba.__version__}"
    )
    for name, both in rates.items():
        table.add_row(
            name,
            *(f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})" for values in both),
        )
    console = Console(width=140)
    console.print(table)
    system = llama_cpp.llama_print_system_info().decode()
    console.print(system)
    settings = {
        "model": Path(args.model).name,
        "other_programs": args.beside,
        "llama_cpp_system": system.strip(),
    }
    write_json(args.json, "decode", settings, json_rows(rates))


def json_rows(rates: dict[str, tuple[list[float], list[float]]]) -> list[dict[str, Any]]:
    """`newleaf int4` is newleaf in int4; llama.cpp's precision is its file's."""
    rows = []
    for name, both in rates.items():
        contender, _, precision = name.replace(", the file", " the file's own").partition(" ")
        for measured, values in zip((f"{NEW} new tokens", f"prompt of {LONG}"), both, strict=True):
            rows.append(row(contender, precision, measured, "tokens/s", values))
    return rows


if __name__ == "__main__":
    main()
