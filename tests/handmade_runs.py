"""Run folders made by hand, for tests of what reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from newleaf.model import GPTConfig
from newleaf.train.runs.run_folder import RunFolder

# What `newleaf runs` prints at the top of its table.
RUN_COLUMNS = ["name", "text", "size", "parameters", "steps", "tokens", "time", "MFU", "bits/byte", "state"]
NETWORK = GPTConfig(vocab_size=500, context_length=32, n_layer=2, n_head=2, n_embd=32)


def write_run(
    path: Path, steps: int = 40, bits: float = 2.0, *, state: str = "finished", network: GPTConfig = NETWORK
) -> Path:
    """A run of `steps` steps of 100 tokens and half a second each, validated every ten steps, ending at
    `bits` bits per byte."""
    folder = RunFolder(path)
    record: dict[str, Any] = {
        "begun": f"2026-01-01T00:{steps % 60:02d}:00+0000",
        "fingerprints": {"text": "aa"},
        "matrix_flops": 1e9,
    }
    record |= {"text_bytes": 300_000, "train_tokens": 100_000}
    folder.begin(
        {"source": ["/texts/book.txt"], "model": network.to_dict(), "train": {"seed": 1}, "record": record}
    )
    for step in range(1, steps + 1):
        value = bits + 3 * math.exp(-step / 10)
        folder.record(
            step=step, loss=value * 3 * math.log(2), factor=1.0, tokens=100 * step, seconds=step / 2
        )
        if step % 10 == 0:
            folder.record(step=step, val_loss=value, val_bits_per_byte=value, val_windows=4)
    if state != "running":
        summary = {
            "finished": state == "finished",
            "val_bits_per_byte": bits,
            "steps": steps,
            "tokens_seen": 100 * steps,
        }
        folder.write_summary(
            summary | {"train_seconds": steps / 2, "total_seconds": steps / 2 + 5, "parameters": 1}
        )
    return path


def append(path: Path, text: str) -> None:
    with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(text)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text("utf-8").splitlines()]
