"""How good the dial's choice is: `python -m benchmarks.dial TEXT… [--times 30s 2m 8m] [--reach 1] [--keep grid.jsonl]`.

For each text and time, a whole `newleaf pretrain --time` as the dial chooses, and one for each neighbour of that choice: sizes up to
`--reach` steps up and down the dial's ladder, half and twice the vocabulary, half and twice the windows in a step, learning rates 0.7 and
1.4 times as large. The figure is bits per byte of the last tenth of the text, which no choice sees. Each run begins with an empty cache, so
that all pay for their tokens. TEXT may be `stdlib`, the source of this Python's own library. Each run is written to `--keep` as soon as it
is done, and is not run again: so a grid that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from newleaf.data.stdlib import standard_library_files
from newleaf.train.dial import LADDER

RATE = 1.4
RATES = ("learning_rate", "matrix_learning_rate")


@dataclass(frozen=True)
class Point:
    """One run of the grid. `options` are what it lays over the dial's choice; `chose` is what it came to have."""

    text: str
    time: str
    name: str
    options: list[str]
    chose: dict[str, Any]
    bits_per_byte: float
    parameters: int
    steps: int
    tokens: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", help="files, or stdlib")
    parser.add_argument("--times", nargs="+", default=["30s", "2m", "8m"])
    parser.add_argument("--reach", type=int, default=1, help="steps of the ladder to either side")
    parser.add_argument("--only", nargs="+", default=["size", "vocabulary", "batch", "rate"], help="which neighbours")
    parser.add_argument("--keep", type=Path, help="a JSONL file of runs that are done")
    parser.add_argument("--cores", help="processors to use, as taskset takes them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        keep = args.keep or Path(folder) / "grid.jsonl"
        for text in args.texts:
            sources = _sources(text, Path(folder))
            for time in args.times:
                points = list(grid(Path(text).stem, sources, time, args, keep, Path(folder)))
                show(points)


def grid(text: str, sources: list[str], time: str, args: argparse.Namespace, keep: Path, folder: Path) -> Iterator[Point]:
    """The dial's own choice, then its neighbours."""
    known = [Point(**json.loads(line)) for line in keep.read_text("utf-8").splitlines()] if keep.is_file() else []
    done = {(point.text, point.time, point.name): point for point in known}

    def measured(name: str, *options: str) -> Point:
        point = done.get((text, time, name))
        if point is None:
            point = run(text, sources, time, name, list(options), folder, args.cores)
            with keep.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(point)) + "\n")
        return point

    center = measured("the dial")
    yield center
    for name, options in neighbours(center.chose, args):
        yield measured(name, *options)


def neighbours(chose: dict[str, Any], args: argparse.Namespace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Their names, and the options that make them."""
    if "size" in args.only:
        at = [rung[:2] for rung in LADDER].index((chose["n_layer"], chose["n_embd"]))
        for step in sorted(range(-args.reach, args.reach + 1), key=abs):
            if step and 0 <= at + step < len(LADDER):
                layers, width, _ = LADDER[at + step]
                yield f"{layers} × {width}", ("--size", f"{layers}x{width}")
    if "vocabulary" in args.only:
        for vocabulary in (chose["vocab_size"] // 2, chose["vocab_size"] * 2):
            yield f"vocabulary {vocabulary}", ("--tokenizer.vocab_size", str(vocabulary))
    if "batch" in args.only:
        for windows in (chose["batch_size"] // 2, chose["batch_size"] * 2):
            yield f"{windows} windows a step", ("--train.batch_size", str(windows))
    if "rate" in args.only:
        rates = {name: chose[name] for name in RATES}
        for factor in (1 / RATE, RATE):
            options = tuple(word for name, rate in rates.items() for word in (f"--optimizer.{name}", f"{rate * factor:.3g}"))
            yield f"rates × {factor:.2f}", options


def run(text: str, sources: list[str], time: str, name: str, options: list[str], folder: Path, cores: str | None) -> Point:
    """One whole command."""
    out = folder / "run"
    command = ["taskset", "-c", cores] if cores else []
    command += [sys.executable, "-m", "newleaf", "pretrain", *sources, "--time", time, "--data.val_fraction", "0.1", *options]
    if cores:
        command += ["--threads", str(len(cores.split(",")))]
    shutil.rmtree(folder / "cache", ignore_errors=True)
    alone = os.environ | {"NEWLEAF_CACHE": str(folder / "cache")}
    done = subprocess.run([*command, "--out", str(out), "--overwrite", "--quiet"], capture_output=True, text=True, env=alone)
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads((out / "summary.json").read_text("utf-8"))
    recipe = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
    sections = {**recipe["model"], **recipe["optimizer"], **recipe["train"]}
    chose = {name: sections[name] for name in ("n_layer", "n_embd", "vocab_size", "context_length", "batch_size", *RATES)}
    figures = (found["val_bits_per_byte"], found["parameters"], found["steps"], found["tokens_seen"], found["total_seconds"])
    return Point(text, time, name, options, chose, *figures)


def show(points: list[Point]) -> None:
    best = min(point.bits_per_byte for point in points)
    table = Table("run", "bits per byte", "over the best", "parameters", "steps", "tokens", "seconds")
    over = points[0].bits_per_byte / best - 1
    table.title = f"{points[0].text}, --time {points[0].time}: the dial is {over:.2%} over the best of {len(points)}"
    for point in points:
        table.add_row(
            point.name, f"{point.bits_per_byte:.4f}", f"{point.bits_per_byte / best - 1:.2%}", f"{point.parameters:,}", f"{point.steps:,}",
            f"{point.tokens:,}", f"{point.seconds:.1f}",
        )  # fmt: skip
    Console().print(table)


def _sources(text: str, folder: Path) -> list[str]:
    if text != "stdlib":
        return [text]
    files = [*standard_library_files()[0], *standard_library_files()[1]]
    whole = folder / "stdlib.txt"
    whole.write_text("\n".join(path.read_text("utf-8") for path in files), "utf-8")
    return [str(whole)]


if __name__ == "__main__":
    main()
