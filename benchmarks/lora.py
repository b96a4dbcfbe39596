"""LoRA on SmolLM2-135M, two sequences of 512 tokens: newleaf beside transformers with peft, tokens/s, peak
memory and losses.

    python -m benchmarks.lora [MODEL] [--steps 8] [--rounds 3] [--threads 2] [--same 50]

MODEL is a GGUF file or a folder (default: ../shared/models/SmolLM2-135M-Instruct.Q4_1.gguf). Both sides start
from one adapter of rank 16 on every linear of the blocks, drawn once, and see the same batches; AdamW at
2e-4, clip 1.0, no dropout, no schedule. Each run is a process of its own, interleaved; the first two steps
are not timed; peak memory is the process's largest resident set. `--same N` adds N fp32 steps of both, whose
losses are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = Path(__file__).parents[2] / "shared/models/SmolLM2-135M-Instruct.Q4_1.gguf"
BATCH, LENGTH, RANK, ALPHA, RATE, WARM = 2, 512, 16, 32, 2e-4, 2
SIDES = ("newleaf bf16", "newleaf int8", "newleaf int4", "newleaf bf16 DoRA", "peft bf16", "peft fp32")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=str(MODEL))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--same", type=int, default=0, help="fp32 steps whose losses are compared")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--child", nargs=3, metavar=("SIDE", "FOLDER", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], Path(args.child[1]), int(args.child[2]), args.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(args.model, Path(folder))
        if args.rounds:
            table(args, folder)
        if args.same:
            compare(args, folder)


def prepare(model: str, folder: Path) -> None:
    """The base as a folder, two adapters that have not learnt anything, and token ids of Python's own
    library."""
    import numpy as np
    import torch

    import newleaf
    from newleaf.adapters.init_adapter import new_adapter
    from newleaf.adapters.lora_config import AdapterConfig
    from newleaf.storage.adapter_folder import rules_of, save_adapter
    from newleaf.storage.convert_model import convert

    convert(model, folder / "base", dtype="bf16")
    opened = newleaf.load(folder / "base")
    for name, dora in (("lora", False), ("dora", True)):
        torch.manual_seed(0)
        config = AdapterConfig(rank=RANK, alpha=ALPHA, dora=dora)
        adapter = new_adapter(
            opened.network, config, rules_of(opened.network.config, opened.family), str(folder / "base")
        )
        save_adapter(folder / name, adapter, opened.network.config, opened.family)
    text = "\n".join(
        path.read_text("utf-8") for path in sorted(Path(argparse.__file__).parent.glob("*.py"))[:40]
    )
    np.save(
        folder / "ids.npy",
        np.array(opened.tokenizer.encode(text)[: 64 * BATCH * (LENGTH + 1)], dtype=np.int64),
    )


def child(side: str, folder: Path, steps: int, threads: int) -> dict[str, Any]:
    """One run: tokens/s, peak memory in bytes, losses."""
    import resource

    import numpy as np
    import torch

    torch.set_num_threads(threads)
    ids = torch.from_numpy(np.load(folder / "ids.npy"))
    windows = ids[: len(ids) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    step = (newleaf_step if side.startswith("newleaf") else peft_step)(side, folder)
    losses, seconds = [], []
    for number in range(steps):
        at = torch.arange(number * BATCH, (number + 1) * BATCH) % len(windows)
        begin = time.perf_counter()
        losses.append(step(windows[at]))
        seconds.append(time.perf_counter() - begin)
    speed = BATCH * LENGTH / statistics.median(seconds[WARM:] or seconds)
    return {
        "speed": speed,
        "memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "losses": losses,
    }


def newleaf_step(side: str, folder: Path) -> Callable[[Any], float]:
    import torch

    import newleaf
    from newleaf.adapters.adapter import attach, lay_out
    from newleaf.machine import flush_denormals, retain_freed_memory
    from newleaf.storage.adapter_folder import load_adapter
    from newleaf.train.loop.optimizer import Optimizer
    from newleaf.train.objective.optimizer_config import OptimizerConfig

    weights = side.split()[1]
    dtype = torch.float32 if weights == "fp32" else torch.bfloat16
    model = newleaf.load(folder / "base", weights=weights)
    network = model.network.to(dtype)
    attach(network, load_adapter(folder / ("dora" if "DoRA" in side else "lora"), network, model.family))
    lay_out(network)
    optimizer = Optimizer(
        network, OptimizerConfig("adamw", RATE, beta2=0.999, weight_decay=0.0, clip=1.0), dtype
    )
    network.train()
    retain_freed_memory()  # as every run of newleaf's does

    def step(rows: Any) -> float:
        with flush_denormals():
            loss = network.loss(rows[:, :-1], rows[:, 1:])
            loss.backward()
            optimizer.step(1.0)
        return float(loss.detach())

    return step


def peft_step(side: str, folder: Path) -> Callable[[Any], float]:
    import torch
    import transformers
    from peft import PeftModel

    transformers.logging.set_verbosity_error()
    dtype = torch.float32 if "fp32" in side else torch.bfloat16
    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)
    model = PeftModel.from_pretrained(
        base, folder / ("dora" if "DoRA" in side else "lora"), is_trainable=True
    ).train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)

    def step(rows: Any) -> float:
        loss = model(input_ids=rows[:, :-1], labels=rows[:, :-1], shift_labels=rows[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def start(side: str, folder: str, steps: int, threads: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.lora",
        "--threads",
        str(threads),
        "--child",
        side,
        folder,
        str(steps),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(args: argparse.Namespace, folder: str) -> None:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
    for _ in range(args.rounds):
        for side in args.sides:
            found[side].append(start(side, folder, args.steps, args.threads))
            print(
                f"{side}: {found[side][-1]['speed']:.0f} tokens/s, {found[side][-1]['memory'] / 1e9:.2f} GB",
                file=sys.stderr,
                flush=True,
            )
    print(
        f"\n| LoRA, rank {RANK}, {BATCH} × {LENGTH} tokens, {args.threads} threads | tokens/s | peak "
        f"memory, GB | loss, first and last |"
    )
    print("|---|---|---|---|")
    for side, runs in found.items():
        speed, memory = (statistics.median(run[name] for run in runs) for name in ("speed", "memory"))
        print(
            f"| {side} | {speed:.0f} | {memory / 1e9:.2f} | {runs[0]['losses'][0]:.3f} "
            f"{runs[0]['losses'][-1]:.3f} |"
        )


def compare(args: argparse.Namespace, folder: str) -> None:
    ours, theirs = (
        start(side, folder, args.same, args.threads)["losses"] for side in ("newleaf fp32", "peft fp32")
    )
    worst = max(abs(one - other) / other for one, other in zip(ours, theirs, strict=True))
    print(
        f"\nfp32, {args.same} steps: losses {theirs[0]:.4f} → {theirs[-1]:.4f} with peft, {ours[0]:.4f} → "
        f"{ours[-1]:.4f} with newleaf, "
    )
    print(f"at most {100 * worst:.4f} % apart")


if __name__ == "__main__":
    main()
