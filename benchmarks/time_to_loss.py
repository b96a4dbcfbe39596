"""Time to loss (table 2): `python -m benchmarks.time_to_loss TEXT [--time 60s] [--seeds 3] [--against
nanogpt|tutorial]`.

A text is split as nanoGPT does, the last tenth held out; loss is nats per character of that tenth, which is
bits per byte × ln 2 for ASCII. Each run is a whole `newleaf pretrain` in a process of its own, timed from
outside.

`--against nanogpt` runs nanoGPT's CPU recipe first, and newleaf in an eighth of the time it took. `--against
tutorial --tokenizer FOLDER` (one with GPT-2's vocab.json and merges.txt) takes a file of lines or JSONL rows,
runs the tutorial's recipe for 20 minutes (`--minutes`) and newleaf for a fiftieth of that; bits per byte.
`--steps` trains the peer for so many, where it is known that they last the minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--time", help="of newleaf (default: 60s; a share of the peer's time)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--against", choices=["nanogpt", "tutorial"])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--steps", type=int)
    args, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.against == "tutorial":
            against_tutorial(args, Path(folder), rest)
        else:
            on_letters(args, Path(folder), rest)


def on_letters(args: argparse.Namespace, folder: Path, rest: list[str]) -> None:
    table = Table("", "nats per character", "bits per byte", "seconds", "steps", "tokens/s", "parameters")
    limit = args.time or "60s"
    if args.against:
        from benchmarks.plain_recipes import nanogpt

        loss, seconds = nanogpt(args.text.read_text("utf-8"), args.steps or 2000)
        table.add_row(
            "nanoGPT's CPU recipe",
            f"{loss:.4f}",
            f"{loss / math.log(2):.4f}",
            f"{seconds:.1f}",
            f"{args.steps or 2000:,}",
            "",
            "",
        )
        limit = args.time or f"{seconds / 8:.1f}s"
    losses = []
    for seed in range(1, args.seeds + 1):
        found, seconds = trained([str(args.text), "--data.val_fraction", "0.1"], limit, seed, folder, rest)
        losses.append(found["val_bits_per_byte"] * math.log(2))
        table.add_row(f"newleaf, seed {seed}", f"{losses[-1]:.4f}", *_columns(found, seconds))
    table.title = f"{args.text.name}, --time {limit} {' '.join(rest)}: median {statistics.median(losses):.4f} nats per character"
    Console().print(table)


def against_tutorial(args: argparse.Namespace, folder: Path, rest: list[str]) -> None:
    from benchmarks.plain_recipes import tutorial

    if args.tokenizer is None:
        raise SystemExit("--tokenizer: name a folder with GPT-2's vocab.json and merges.txt")
    lines = [line for line in args.text.read_text("utf-8").splitlines() if line.strip()]
    if args.text.suffix == ".jsonl":
        lines = [json.loads(line)["text"] for line in lines]
    lines = lines[:11_000]
    cut = len(lines) * 10 // 11
    for name, part in (("train", lines[:cut]), ("held_out", lines[cut:])):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": line}) + "\n" for line in part), "utf-8"
        )
    table = Table("", "bits per byte", "seconds", "steps", "tokens/s", "parameters")
    bits, steps, seconds = tutorial(lines[:cut], lines[cut:], args.tokenizer, 60 * args.minutes, args.steps)
    table.add_row(
        "the tutorial's recipe",
        f"{bits:.4f}",
        f"{60 * args.minutes if args.steps else seconds:.1f}",
        f"{steps:,}",
        "",
        "",
    )
    limit = args.time or f"{60 * args.minutes / 50:.1f}s"
    source = [str(folder / "train.jsonl"), "--data.validation", str(folder / "held_out.jsonl")]
    for seed in range(1, args.seeds + 1):
        table.add_row(f"newleaf, seed {seed}", *_columns(*trained(source, limit, seed, folder, rest)))
    table.title = f"{args.text.name}, {len(lines):,} lines: {args.minutes:g} minutes of the tutorial's recipe, {limit} of newleaf"
    Console().print(table)


def trained(
    source: list[str], limit: str, seed: int, folder: Path, rest: list[str]
) -> tuple[dict[str, Any], float]:
    """A whole command's summary, and its seconds from outside."""
    command = [
        sys.executable,
        "-m",
        "newleaf",
        "pretrain",
        *source,
        "--time",
        limit,
        "--seed",
        str(seed),
        *rest,
    ]
    begin = time.perf_counter()
    subprocess.run([*command, "--out", f"{folder}/{seed}", "--quiet"], check=True, capture_output=True)
    return json.loads((folder / str(seed) / "summary.json").read_text("utf-8")), time.perf_counter() - begin


def _columns(found: dict[str, Any], seconds: float) -> tuple[str, ...]:
    figures = f"{found['steps']:,}", f"{found['tokens_per_second']:,.0f}", f"{found['parameters']:,}"
    return f"{found['val_bits_per_byte']:.4f}", f"{seconds:.1f}", *figures


if __name__ == "__main__":
    main()
