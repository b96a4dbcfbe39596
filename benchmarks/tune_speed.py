"""Full fine-tuning beside transformers' Trainer: `python -m benchmarks.tune_speed [--steps 12] [--rounds 2]`.

GPT-2's 124M shape with random weights, windows of 128 tokens, four of them a step, AdamW at 5e-5, no dropout,
as a tutorial tunes it. All contenders get the same weights and the same windows, each in a process of its
own, and take turns. The last line says how far newleaf's losses in fp32 are from Trainer's on them (`--steps
50` for fifty steps). `--small` is a network of 2 × 128, to try the script.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

WINDOW, ROWS, WARM = 128, 4, 2  # tokens, windows a step, steps left out of the time
CONTENDERS = ("Trainer fp32", "Trainer bf16", "newleaf fp32", "newleaf bf16")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=list(CONTENDERS), help="some of the contenders")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(measure(args.contender, args.folder, args.steps)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    with tempfile.TemporaryDirectory() as place:
        prepare(Path(place), args.steps, args.small)
        for _ in range(args.rounds):
            for name in args.only:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.tune_speed",
                    "--contender",
                    name,
                    "--folder",
                    place,
                    "--steps",
                    str(args.steps),
                ]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print_table(found, args)


def print_table(found: dict[str, list[dict[str, Any]]], args: argparse.Namespace) -> None:
    shape = "2 × 128" if args.small else "GPT-2 124M"
    speeds = {
        name: ROWS * WINDOW / statistics.median(turn["seconds"] for turn in turns)
        for name, turns in found.items()
    }
    ours = speeds.get("newleaf bf16") or max(speeds.values())
    table = Table(
        "contender",
        "tokens/s",
        "newleaf bf16 is",
        title=f"Full fine-tuning: {shape}, {WINDOW} tokens × {ROWS}, {args.rounds} turns",
    )
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:,.0f}", f"{ours / speed:.2f} ×")
    Console().print(table)
    print(
        f"torch {torch.__version__}, transformers {version('transformers')}, {torch.get_num_threads()} "
        f"threads"
    )
    if {"Trainer fp32", "newleaf fp32"} <= found.keys():
        pairs = zip(found["newleaf fp32"][0]["losses"], found["Trainer fp32"][0]["losses"], strict=True)
        print(
            f"losses in fp32: at most {100 * max(abs(a - b) / b for a, b in pairs):.3f} % apart in "
            f"{args.steps} steps"
        )


def prepare(place: Path, steps: int, small: bool) -> None:
    """A base with random weights in `base`, a text, and the windows that newleaf takes of it in
    `rows.npy`."""
    import transformers

    from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 7))) for _ in range(500)]
    text = " ".join(chance.choice(words) for _ in range(60 * (steps + 20) * ROWS + 20_000))
    (place / "text.txt").write_text(text)
    tokenizer = train_tokenizer([text], TokenizerConfig(kind="bpe", vocab_size=2000))
    tokenizer.save(place / "base")
    sizes = {"n_layer": 2, "n_embd": 128, "n_head": 2} if small else {}
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=tokenizer.bos_id, **sizes
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(place / "base")
    batches = objective(place, steps, "fp32").batches((0, 1))
    rows = [
        torch.cat((batch.ids, batch.targets[:, -1:]), 1)
        for batch in (batches.batch(step) for step in range(steps))
    ]
    np.save(place / "rows.npy", torch.cat(rows).numpy())


def objective(place: Path, steps: int, precision: str) -> Any:
    from newleaf.train.display.monitor import SilentMonitor
    from newleaf.train.distributed.process_group import Ranks
    from newleaf.tune.start_finetuning import open_objective, read_config

    values = {
        "task": "text", "model": str(place / "base"), "source": [str(place / "text.txt")],
        "text": {"length": WINDOW}, "optimizer": {"learning_rate": 5e-5, "weight_decay": 0.0},
        "train": {"steps": steps, "batch_size": ROWS, "precision": precision},
    }  # fmt: skip
    return open_objective(read_config(values), SilentMonitor(), Ranks())


def measure(contender: str, place: Path, steps: int) -> dict[str, Any]:
    """Median seconds of a step, and every loss."""
    who, kind = contender.split()
    found = (_trainer if who == "Trainer" else _newleaf)(place, steps, kind)
    return {
        "seconds": statistics.median(second for _, second in found[WARM:]),
        "losses": [loss for loss, _ in found],
    }


def _newleaf(place: Path, steps: int, kind: str) -> list[tuple[float, float]]:
    from newleaf.train.loop.loop import Loop
    from newleaf.train.loop.optimizer import Optimizer
    from newleaf.train.objective.schedule import ScheduleShape, StepSchedule
    from newleaf.train.objective.training_step import Step

    opened = objective(place, steps, kind)
    found: list[tuple[float, float]] = []

    class Watcher:
        at = 0.0

        def step(self, step: Step) -> None:
            found.append((step.loss, step.seconds - self.at))
            self.at = step.seconds

        def validation_due(self, step: Step) -> bool:
            return False

        def check(self, step: int) -> bool:
            return True

        def reduce_micro_batch(self, windows: int) -> None: ...

        def stop_requested(self) -> bool:
            return False

    network = opened.build()
    optimizer = Optimizer(network, opened.optimizer, torch.bfloat16 if kind == "bf16" else torch.float32)
    batches = opened.batches((0, 1))
    Loop(
        network, optimizer, StepSchedule(steps, ScheduleShape(0.0, 0.0)), batches.batch, ROWS, 1, Watcher()
    ).run()
    return found


def _trainer(place: Path, steps: int, kind: str) -> list[tuple[float, float]]:
    import time

    import transformers

    rows = torch.from_numpy(np.load(place / "rows.npy"))
    # The first label is never predicted, but Trainer's mean would count it.
    data = [{"input_ids": row, "labels": row.clone().index_fill_(0, torch.tensor([0]), -100)} for row in rows]
    times: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *given: Any, **named: Any) -> None:
            times.append(-time.perf_counter())

        def on_step_end(self, *given: Any, **named: Any) -> None:
            times[-1] += time.perf_counter()

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *given: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)  # type: ignore[arg-type]

    arguments = transformers.TrainingArguments(
        output_dir=str(place / "stock"), per_device_train_batch_size=ROWS, max_steps=steps,
        learning_rate=5e-5, lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True, bf16=kind == "bf16",
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(place / "base")
    trainer = InOrder(model=model, args=arguments, train_dataset=data, callbacks=[Clock()])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return list(zip(losses, times, strict=True))


if __name__ == "__main__":
    main()
