"""Pretraining by steps: in fp32 with AdamW, in bf16 with Muon; and a run that is killed half way and
resumed."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import newleaf
from tools.same_outputs.runs import run_record
from tools.same_outputs.texts import write_book
from tools.same_outputs.workplace import Workplace, environment
from tools.same_outputs.workplace import newleaf as words_of

STEPS = 24
COMMON: dict[str, Any] = {
    "model": {"n_layer": 2, "n_embd": 64, "n_head": 2, "context_length": 64},
    "tokenizer": {"vocab_size": 400},
}
TRAIN: dict[str, Any] = {
    "batch_size": 8,
    "micro_batch_size": 4,
    "eval_every": 8,
    "eval_windows": 32,
    "prompts": ["def", ""],
}
RUNS: dict[str, dict[str, Any]] = {
    "adamw, fp32": {"train": TRAIN | {"precision": "fp32"}, "optimizer": {"kind": "adamw"}},
    "muon, bf16": {"train": TRAIN | {"precision": "bf16"}, "optimizer": {"kind": "muon"}},
    "gpt2, dropout": {
        "train": TRAIN | {"precision": "fp32", "schedule": {"decay": 0.5}},
        "model": COMMON["model"] | {"norm": "layer_norm", "positions": "learned", "qk_norm": False,
        "activation": "gelu_tanh",
                                    "gated": False, "residual_dropout": 0.1, "embedding_dropout": 0.1},
    },
}  # fmt: skip


def outputs(work: Workplace) -> dict[str, Any]:
    book = work.once("book.txt", write_book)
    found: dict[str, Any] = {}
    for name, options in RUNS.items():
        out = work.place(f"pretraining/{name}")
        newleaf.pretrain(
            book, out=out, steps=STEPS, seed=3, threads=work.threads, quiet=True, **(COMMON | options)
        )
        found[name] = run_record(out)
    found["killed and resumed"] = killed_and_resumed(work, book)
    return found


def killed_and_resumed(work: Workplace, book: Path) -> dict[str, Any]:
    """By the command, and killed as soon as there is a checkpoint; how many steps it had made then depends on
    the machine, so that is not recorded. Raises RuntimeError if it ended before it could be killed."""
    out = work.place("pretraining/killed")
    fields = {f"--model.{name}": value for name, value in COMMON["model"].items()} | {
        "--tokenizer.vocab_size": 400
    }
    fields |= {f"--train.{name}": value for name, value in TRAIN.items() if name != "prompts"} | {
        "--train.precision": "fp32"
    }
    words = [
        "pretrain",
        book,
        "--out",
        out,
        "--steps",
        4 * STEPS,
        "--seed",
        4,
        "--threads",
        work.threads,
        "--quiet",
    ]
    options = [word for pair in fields.items() for word in pair]
    process = subprocess.Popen(
        words_of(*words, *options), env=environment(work.threads), stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None and not any(out.glob("state/step-*")):
            time.sleep(0.001)
    finally:
        process.kill()
        _, told = process.communicate()
    if (out / "summary.json").exists() or not (out / "state").exists():
        raise RuntimeError(f"the run to be killed had ended before: {told[-1000:]}")
    work.command("pretrain", "--resume", out, "--quiet")
    found = run_record(out)
    found["summary.json"].pop("resumed_from_step", None)
    return found
