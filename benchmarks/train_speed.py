"""Training speed (table 1): `python -m benchmarks.train_speed [--large] [--json FILE]`.

One network, GPT-2's layout of 6 layers × 384, vocabulary 4,096, context 256, 32 windows a step, no dropout,
AdamW with gradients clipped to 1.0, random tokens. Every contender takes the same steps in a process of its
own, and the contenders take turns, so that all see the machine in the same state. `--large` is GPT-2's own
shape, 12 × 768 with 50,304 tokens and 4 windows. The plain loop trains as nanoGPT does: fp32 weights,
autocast, `scaled_dot_product_attention`, one fused AdamW. litgpt has no learned positions, so its network has
rotary ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.results import add_json_option, row, write_json

if TYPE_CHECKING:
    from newleaf.model import GPTConfig
    from newleaf.train.objective.optimizer_config import OptimizerConfig

SHAPES = {
    "small": {"layers": 6, "width": 384, "heads": 6, "vocabulary": 4096, "context": 256, "batch": 32},
    "large": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50_304, "context": 256, "batch": 4},
}
CONTENDERS = (
    "transformers fp32", "transformers bf16", "litgpt fp32", "litgpt bf16-true", "plain fp32", "plain bf16",
    "plain bf16 compiled", "newleaf fp32", "newleaf bf16",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), help="some of the contenders")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of each contender's turn, after warming up"
    )
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    add_json_option(parser)
    args = parser.parse_args()
    shape = SHAPES["large" if args.large else "small"]
    if args.contender:
        print(json.dumps(measure(args.contender, shape, args.seconds)))
        return
    speeds: dict[str, list[float]] = {name: [] for name in args.only}
    for _ in range(args.rounds):
        for name in args.only:
            command = [
                sys.executable,
                "-m",
                "benchmarks.train_speed",
                "--contender",
                name,
                "--seconds",
                str(args.seconds),
            ]
            done = subprocess.run(command + ["--large"] * args.large, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: left out ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
                speeds.pop(name, None)
                args.only = [other for other in args.only if other != name]
                continue
            speeds[name].append(json.loads(done.stdout.splitlines()[-1]))
    speeds = {name: found for name, found in speeds.items() if found}
    print_table(shape, {name: statistics.median(found) for name, found in speeds.items()}, args.rounds)
    measured = "{layers} × {width}".format(**shape)
    rows = [row(*name.split(" ", 1), measured, "tokens/s", found) for name, found in speeds.items()]
    write_json(args.json, "train_speed", shape, rows)


def print_table(shape: dict[str, int], speeds: dict[str, float], rounds: int) -> None:
    ours = speeds.get("newleaf bf16") or max(speeds.values())
    about = ", ".join(f"{name} {value:,}" for name, value in shape.items())
    table = Table(
        "contender", "tokens/s", "newleaf bf16 is", title=f"Training: {about}; median of {rounds} turns"
    )
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:,.0f}", f"{ours / speed:.2f} ×")
    Console().print(table)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; "
        + ", ".join(_version(name) for name in ("transformers", "litgpt"))
    )


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def measure(contender: str, shape: dict[str, int], seconds: float) -> float:
    """Tokens in a second of this contender's steps, the first three left out."""
    torch.manual_seed(0)
    who, kind = contender.split(" ", 1)
    step = {"transformers": _transformers, "litgpt": _litgpt, "plain": _plain, "newleaf": _newleaf}[who](
        kind, shape
    )
    tokens = shape["batch"] * shape["context"]
    drawn = torch.randint(0, shape["vocabulary"], (8, shape["batch"], shape["context"] + 1))
    for number in range(3):
        step(drawn[number])
    taken, number, end = [], 3, time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        begin = time.perf_counter()
        step(drawn[number % 8])
        taken.append(time.perf_counter() - begin)
        number += 1
    return tokens / statistics.median(taken)


Stepper = Callable[[Tensor], None]


def _stepper(network: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], autocast: bool) -> Stepper:
    """AdamW, clipped, around a loss: what a plain loop does."""
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step(tokens: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def _transformers(kind: str, shape: dict[str, int]) -> Stepper:
    import transformers

    config = transformers.GPT2Config(
        vocab_size=shape["vocabulary"], n_positions=shape["context"], n_embd=shape["width"],
        n_layer=shape["layers"], n_head=shape["heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    network = transformers.GPT2LMHeadModel(config).train()

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(network(ids, use_cache=False).logits.flatten(0, 1).float(), targets.flatten())

    return _stepper(network, loss, kind == "bf16")


def _litgpt(kind: str, shape: dict[str, int]) -> Stepper:
    import litgpt

    config = litgpt.Config(
        block_size=shape["context"], vocab_size=shape["vocabulary"], padded_vocab_size=shape["vocabulary"],
        n_layer=shape["layers"], n_head=shape["heads"], n_embd=shape["width"], rotary_percentage=1.0,
        parallel_residual=False, bias=True,
    )  # fmt: skip
    network = litgpt.GPT(config).train()
    if kind == "bf16-true":
        network = network.bfloat16()
    return _stepper(
        network,
        lambda ids, targets: F.cross_entropy(network(ids).flatten(0, 1).float(), targets.flatten()),
        autocast=False,
    )


def _plain(kind: str, shape: dict[str, int]) -> Stepper:
    network = Plain(shape)
    loss = network.loss
    if kind.endswith("compiled"):
        loss = torch.compile(network.loss)
    return _stepper(network, loss, kind.startswith("bf16"))


def _newleaf(kind: str, shape: dict[str, int]) -> Stepper:
    from newleaf.model import GPTConfig
    from newleaf.train.objective.optimizer_config import OptimizerConfig

    config = GPTConfig(
        vocab_size=shape["vocabulary"],
        context_length=shape["context"],
        n_layer=shape["layers"],
        n_head=shape["heads"],
        n_embd=shape["width"],
    )
    return newleaf_step(
        config, OptimizerConfig(kind="adamw", learning_rate=1e-3), shape["batch"], kind == "bf16"
    )


def newleaf_step(config: GPTConfig, how: OptimizerConfig, batch_size: int, bf16: bool) -> Stepper:
    """What a run does in a step: gradients and optimizer."""
    from newleaf.data.batches import Batch
    from newleaf.machine import retain_freed_memory
    from newleaf.model import GPT
    from newleaf.train.loop.loop import Loop
    from newleaf.train.loop.optimizer import Optimizer

    retain_freed_memory()
    torch.set_flush_denormal(True)
    network = GPT(config).train()
    optimizer = Optimizer(network, how, torch.bfloat16 if bf16 else torch.float32)
    loop = Loop(network, optimizer, None, None, batch_size, 0, None)  # type: ignore[arg-type]

    def step(tokens: Tensor) -> None:
        loop._gradients(Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), None))
        optimizer.step(1.0)

    return step


class Plain(nn.Module):
    """GPT-2 as a small script writes it."""

    def __init__(self, shape: dict[str, int]) -> None:
        super().__init__()
        width = shape["width"]
        self.tokens, self.positions = (
            nn.Embedding(shape["vocabulary"], width),
            nn.Embedding(shape["context"], width),
        )
        self.blocks = nn.ModuleList(PlainBlock(width, shape["heads"]) for _ in range(shape["layers"]))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape["vocabulary"], bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


class PlainBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


if __name__ == "__main__":
    main()
