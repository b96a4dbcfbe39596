"""What a long context costs: `python -m benchmarks.long_context [--most 32768] [--oss-most 131072]
        [--skip-transformers]`.

Time for one more token, time to read a prompt, and bytes of keys and values, with 1k to 32k tokens in the
cache, in bf16 and in 8 bits. The network is SmolLM2-135M's (the real one if --model names it, random weights
otherwise: the time is the same), stretched by YaRN beyond its 8k; then a small one of gpt-oss's layout, to
128k, of which half of the layers see 128 tokens back. A prompt is read once, and timed from mark to mark, up
to 32k tokens in bf16 and 8k in 8 bits, where reading takes as long; beyond, the cache is filled with random
keys and values. At each mark some tokens are written. `peak` is the largest resident memory up to the mark,
weights and PyTorch included.

transformers (bf16) reads the same lengths while that takes less than half a minute.
"""

from __future__ import annotations

import argparse
import gc
import math
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from newleaf.api import load
from newleaf.families import size
from newleaf.families.gpt_oss import gpt_oss
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.kernels.page_copy import write_pages
from newleaf.model import GPT, GPTConfig
from newleaf.model.rope_scaling import with_context

NEW, PATIENCE = 8, 30.0  # tokens written at each mark; seconds that transformers may take to read
PART = 256  # tokens that are filled in at once
CLEAR = Path("/proc/self/clear_refs")
READ = {"bf16": 32_768, "int8": 8192}  # tokens up to which prompts are read; more are filled in
KINDS = {"bf16": torch.bfloat16, "int8": torch.int8}


@dataclass(frozen=True)
class Mark:
    """At `length` tokens: seconds to read so far, milliseconds for one more, bytes of keys and values, and
    peak bytes of the process."""

    length: int
    reading: float
    token: float
    held: float
    peak: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="SmolLM2's file, in place of random weights")
    parser.add_argument("--most", type=int, default=32_768, help="tokens of the longest cache")
    parser.add_argument("--oss-most", type=int, default=131_072, help="the same for gpt-oss's layout")
    parser.add_argument("--skip-transformers", action="store_true")
    args = parser.parse_args()
    config = with_context(size("smollm2-135m"), max(args.most + NEW + 1, 8192))
    network = (
        load(args.model, "bf16", context=config.context_length).network
        if args.model
        else random_network(config)
    )
    console = Console(width=140)
    rows = {
        f"newleaf, {name} cache": list(marks(network, kind, args.most, READ[name]))
        for name, kind in KINDS.items()
    }
    if not args.skip_transformers:
        rows["transformers bf16"] = list(marks_of_transformers(config, args.most))
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    console.print(table(f"SmolLM2-135M, bf16 weights, {threads}", rows))
    oss = gpt_oss_like(args.oss_most + NEW + 1)
    plain = oss.replace(windows=())
    network = random_network(oss)
    rows = {
        f"gpt-oss's layout, {name} cache": list(marks(network, kind, args.oss_most, READ[name]))
        for name, kind in KINDS.items()
    }
    rows["the same without windows"] = list(
        marks(random_network(plain), torch.bfloat16, args.oss_most, READ["int8"])
    )
    shape = (
        f"{oss.n_layer} layers × {oss.n_embd}, {oss.n_head} heads on {oss.n_kv_head}, every second "
        f"layer sees {max(oss.windows)} tokens"
    )
    console.print(table(f"{shape}; {threads}", rows))


def gpt_oss_like(length: int) -> GPTConfig:
    """gpt-oss's layout, small: as many query heads for each key/value head, the same heads, windows, sinks,
    YaRN, and experts."""
    shape = gpt_oss(4, 4).replace(
        vocab_size=8192, n_embd=256, n_inner=256, n_head=8, n_kv_head=1, n_expert_active=2
    )
    return with_context(shape, length)


def random_network(config: GPTConfig) -> GPT:
    torch.manual_seed(0)
    return GPT(config).eval().bfloat16()


def lengths_up_to(most: int) -> list[int]:
    return [1024 << power for power in range(20) if 1024 << power <= most]


def forget_peak() -> None:
    """On Linux the peak is that of one row of the table; elsewhere, of all so far."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def peak() -> float:
    if CLEAR.exists():
        (line,) = (
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
        )
        return 1024 * float(line.split()[1])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used if sys.platform == "darwin" else 1024 * used)


def marks(network: GPT, kind: torch.dtype, most: int, read: int) -> Iterator[Mark]:
    """newleaf's program; the prompt in parts, as the engine reads it, up to `read` tokens."""
    gc.collect()
    forget_peak()
    runner, reading = LoweredRunner(network, slots=1, max_length=most + NEW + 1, cache=kind), 0.0
    ids = torch.randint(
        network.config.vocab_size, (most + NEW,), generator=torch.Generator().manual_seed(1)
    ).tolist()
    done = 0
    for length in lengths_up_to(most):
        begun = time.perf_counter()
        if length <= read:
            runner.read(0, ids[:length], done)
            reading += time.perf_counter() - begun
        else:
            fill(runner, done, length)
        done, seconds = length + NEW, []
        for position in range(length, done):
            begun = time.perf_counter()
            runner.step([ids[position]], [position], [0])
            seconds.append(time.perf_counter() - begun)
        found = reading if length <= read else math.nan
        yield Mark(length, found, 1000 * statistics.median(seconds), runner.pages.used, peak())


def fill(runner: LoweredRunner, start: int, end: int) -> None:
    """Random keys and values, which take as long to look at."""
    config = runner.config
    x = torch.randn(config.n_kv_head, PART, config.head_dim)
    for first in range(start, end, PART):
        count = min(PART, end - first)
        runner.pages.reserve(0, first, first + count)
        for layer in range(config.n_layer):
            write_pages(runner.thread_pool.state, layer, 0, first, count, x.data_ptr(), x.data_ptr())


@torch.inference_mode()
def marks_of_transformers(config: GPTConfig, most: int) -> Iterator[Mark]:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size, "hidden_size": config.n_embd, "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head,
        "max_position_embeddings": config.context_length, "intermediate_size": config.n_inner,
    }  # fmt: skip
    gc.collect()
    forget_peak()
    model = LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16).eval()
    for length in lengths_up_to(most):
        ids = torch.randint(config.vocab_size, (1, length + NEW), generator=torch.Generator().manual_seed(1))
        begun = time.perf_counter()
        past = model(ids[:, :length], use_cache=True, logits_to_keep=1).past_key_values
        reading, seconds = time.perf_counter() - begun, []
        for at in range(length, length + NEW):
            begun = time.perf_counter()
            past = model(ids[:, at : at + 1], past_key_values=past, use_cache=True).past_key_values
            seconds.append(time.perf_counter() - begun)
        held = 2 * config.n_layer * config.n_kv_head * config.head_dim * 2 * length
        yield Mark(length, reading, 1000 * statistics.median(seconds), held, peak())
        if 3 * reading > PATIENCE:  # twice the length takes more than twice the time
            return


def table(title: str, rows: dict[str, list[Mark]]) -> Table:
    found = Table(
        "",
        "tokens in the cache",
        "reading them, s",
        "tokens/s",
        "one more token, ms",
        "keys and values, MB",
        "peak, MB",
        title=title,
    )
    for name, own in rows.items():
        for number, mark in enumerate(own):
            rate = f"{mark.length / mark.reading:,.0f}"
            cells = [
                f"{mark.length:,}",
                f"{mark.reading:.2f}",
                rate,
                f"{mark.token:.2f}",
                f"{mark.held / 1e6:,.1f}",
                f"{mark.peak / 1e6:,.0f}",
            ]
            found.add_row("" if number else name, *cells, end_section=number == len(own) - 1)
    return found


if __name__ == "__main__":
    main()
