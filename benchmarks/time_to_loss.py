"""Time to loss (table 2).

    python -m benchmarks.time_to_loss TEXT [--time 60s] [--seeds 3] [--against nanogpt|tutorial] [--json FILE]

A text is split as nanoGPT does, the last tenth held out; loss is nats per character of that tenth, which is
bits per byte × ln 2 for ASCII. Each run is a complete `newleaf pretrain` in a process of its own, timed from
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

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.results import add_json_option, row, write_json


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
    add_json_option(parser)
    args, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.against == "tutorial":
            rows = against_tutorial(args, Path(folder), rest)
        else:
            rows = on_letters(args, Path(folder), rest)
    settings = {"text": args.text.name, "against": args.against, "options": " ".join(rest)}
    write_json(args.json, "time_to_loss", settings, rows)


def on_letters(args: argparse.Namespace, folder: Path, rest: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
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
        rows.append(json_row("nanoGPT's CPU recipe", "fp32", loss / math.log(2), seconds, args.steps or 2000))
        limit = args.time or f"{seconds / 8:.1f}s"
    losses = []
    for seed in range(1, args.seeds + 1):
        found, seconds = trained([str(args.text), "--data.val_fraction", "0.1"], limit, seed, folder, rest)
        losses.append(found["val_bits_per_byte"] * math.log(2))
        table.add_row(f"newleaf, seed {seed}", f"{losses[-1]:.4f}", *_columns(found, seconds))
        rows.append(newleaf_row(seed, found, seconds))
    median = f"median {statistics.median(losses):.4f} nats per character"
    table.title = f"{args.text.name}, --time {limit} {' '.join(rest)}: {median}"
    Console().print(table)
    return rows


def against_tutorial(args: argparse.Namespace, folder: Path, rest: list[str]) -> list[dict[str, Any]]:
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
    if args.steps:
        seconds = 60 * args.minutes
    table.add_row("the tutorial's recipe", f"{bits:.4f}", f"{seconds:.1f}", f"{steps:,}", "", "")
    rows = [json_row("the tutorial's recipe", "fp32", bits, seconds, steps)]
    limit = args.time or f"{60 * args.minutes / 50:.1f}s"
    source = [str(folder / "train.jsonl"), "--data.validation", str(folder / "held_out.jsonl")]
    for seed in range(1, args.seeds + 1):
        found, seconds = trained(source, limit, seed, folder, rest)
        table.add_row(f"newleaf, seed {seed}", *_columns(found, seconds))
        rows.append(newleaf_row(seed, found, seconds))
    times = f"{args.minutes:g} minutes of the tutorial's recipe, {limit} of newleaf"
    table.title = f"{args.text.name}, {len(lines):,} lines: {times}"
    Console().print(table)
    return rows


def json_row(contender: str, precision: str, bits: float, seconds: float, steps: int) -> dict[str, Any]:
    found = row(contender, precision, "held-out loss", "bits per byte", [bits])
    return found | {"seconds": round(seconds, 1), "steps": steps}


def newleaf_row(seed: int, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    bits, steps = summary["val_bits_per_byte"], summary["steps"]
    found = json_row("newleaf", summary["precision"], bits, seconds, steps)
    return found | {"seed": seed, "parameters": summary["parameters"]}


def trained(
    source: list[str], limit: str, seed: int, folder: Path, rest: list[str]
) -> tuple[dict[str, Any], float]:
    """The summary of a complete command, and its seconds as seen from outside."""
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
    seconds = time.perf_counter() - begin
    summary = json.loads((folder / str(seed) / "summary.json").read_text("utf-8"))
    recipe = yaml.safe_load((folder / str(seed) / "run.yaml").read_text("utf-8"))
    return summary | {"precision": recipe["train"]["precision"]}, seconds


def _columns(found: dict[str, Any], seconds: float) -> tuple[str, ...]:
    figures = f"{found['steps']:,}", f"{found['tokens_per_second']:,.0f}", f"{found['parameters']:,}"
    return f"{found['val_bits_per_byte']:.4f}", f"{seconds:.1f}", *figures


if __name__ == "__main__":
    main()
