"""What fewer bits cost: `python -m benchmarks.precision MODEL TEXT`.

Bits per byte of one text in each precision, over the same windows: by the network itself (weights rounded,
arithmetic in fp32 or bf16), and as `newleaf generate` computes, a token at a time with the compiled kernels,
whose inputs are rounded to bytes too where weights are packed; then with keys and values in 8 bits as well,
whose cost is against the same kernels without. The first token of a window is given.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import newleaf
from newleaf.data.token_shards import token_byte_lengths
from newleaf.generate.backend.lowered_program import CannotLower
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.model import GPT

ROWS = 16  # windows that a step of the kernels takes side by side


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    kinds = ["fp32", "bf16", "int8", "int4"]
    parser.add_argument(
        "--weights", nargs="+", default=kinds, help="precisions, or 'as stored'; compared with the first"
    )
    parser.add_argument("--length", type=int, default=256, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=32, help="windows, spread over the text")
    args = parser.parse_args()
    table = Table("weights", "network", "cost", "kernels", "cost", "and an 8-bit cache", "its cost", "MB")
    first: list[float] = []
    for kind in args.weights:
        model = newleaf.load(args.model, weights=None if kind == "as stored" else kind)
        ids = windows(
            torch.tensor(model.tokenizer.encode(args.text.read_text("utf-8"))), args.length, args.windows
        )
        lengths = torch.from_numpy(token_byte_lengths(model.tokenizer)).long()
        count = int(lengths[ids[:, 1:]].sum())
        found = [
            by_network(model.network, ids),
            by_kernels(model.network, ids),
            by_kernels(model.network, ids, torch.int8),
        ]
        bits = [nats / math.log(2) / count for nats in found]
        first = first or [*bits[:2], 0.0]
        against = [*first[:2], bits[1]]
        held = sum(part.nbytes for part in (*model.network.parameters(), *model.network.buffers())) / 1e6
        cells = [f"{value:.4f}" for value in bits]
        costs = [f"{100 * (value / base - 1):+.2f} %" for value, base in zip(bits, against, strict=True)]
        table.add_row(kind, cells[0], costs[0], cells[1], costs[1], cells[2], costs[2], f"{held:,.0f}")
    table.title = (
        f"{args.model.name} on {args.text.name}: bits per byte, {args.windows} windows of "
        f"{args.length} tokens ({count:,} bytes)"
    )
    Console().print(table)


def windows(ids: Tensor, length: int, count: int) -> Tensor:
    """`count` windows [count, length], evenly spread over the tokens."""
    length = min(length, len(ids) // count)
    starts = torch.linspace(0, len(ids) - length, count).long()
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


@torch.no_grad()
def by_network(network: GPT, ids: Tensor) -> float:
    """Nats of all windows, each read in one pass."""
    return sum(float(network.loss(some[:, :-1], some[:, 1:], reduction="sum")) for some in ids.split(8))


def by_kernels(network: GPT, ids: Tensor, cache: torch.dtype | None = None) -> float:
    """Nats of all windows, read as text is written, a token of several windows at a time. NaN where kernels
    do not know the network."""
    try:
        runner = LoweredRunner(network, slots=ROWS, max_length=ids.shape[1], cache=cache)
    except CannotLower:
        return math.nan
    nats = 0.0
    for some in ids.split(ROWS):
        slots = list(range(len(some)))
        for at in range(ids.shape[1] - 1):
            logits = runner.step(some[:, at].tolist(), [at] * len(some), slots)
            nats += float(torch.nn.functional.cross_entropy(logits, some[:, at + 1], reduction="sum"))
    return nats


if __name__ == "__main__":
    main()
