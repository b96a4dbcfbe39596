"""How good the dial's choice is: `python -m benchmarks.dial TEXT… [--times 30s 2m 8m] [--reach 1] [--keep
grid.jsonl]`.

For each text and time, a whole `newleaf pretrain --time` as the dial chooses, and a run for each neighbour of
that choice: sizes up to `--reach` steps up and down the dial's ladder, half and twice the vocabulary, half
and twice the windows in a step, each learning rate 0.7 and 1.4 times as large. The figure is bits per byte of
the last tenth of the text, which no choice sees.

A neighbour takes as many steps as the time is enough for: those of the dial's run, divided by how much longer
a step of its takes, which is measured with the two taking turns. So other work on the machine changes how
long a run takes, but not what comes of it.

TEXT may be `stdlib`, the source of this Python's own library. Each run is written to `--keep` as soon as it
is done, and is not run again: so a grid that was stopped goes on. `--cores` pins every run, and gives it as
many threads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from newleaf.data.stdlib_corpus import standard_library_files
from newleaf.train.size_from_budget import MODEL_SIZES, Budget, choose_size

RATE = 1.4
RATES = {"AdamW's": "learning_rate", "Muon's": "matrix_learning_rate"}
TURNS = 48  # of each of two whose steps are compared

Recipe = dict[str, dict[str, Any]]  # sections data, tokenizer, model, optimizer, train


@dataclass(frozen=True)
class Point:
    """One run of the grid. `pace` is what a step of it takes, in steps of the dial's run."""

    text: str
    time: str
    name: str
    recipe: Recipe
    pace: float
    bits_per_byte: float
    parameters: int
    steps: int
    tokens: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", help="files, or stdlib")
    parser.add_argument("--times", nargs="+", default=["30s", "2m", "8m"])
    parser.add_argument("--reach", type=int, default=1, help="steps of the ladder to either side")
    parser.add_argument(
        "--only", nargs="+", default=["size", "vocabulary", "batch", "rate"], help="which neighbours"
    )
    parser.add_argument("--keep", type=Path, help="a JSONL file of runs that are done")
    parser.add_argument("--cores", help="processors to use, as taskset takes them")
    parser.add_argument("--pace", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.texts and not args.pace:
        parser.error("name a text, or stdlib")
    if args.pace:
        print(pace(*map(json.loads, args.pace)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keep = args.keep or folder / "grid.jsonl"
        for text in args.texts:
            source = _source(text, folder)
            for limit in args.times:
                show(list(grid(Grid(Path(text).stem, source, limit, folder, keep, args.cores), args)))


@dataclass(frozen=True)
class Grid:
    """One text and time, and where its runs go."""

    text: str
    source: str
    time: str
    folder: Path
    keep: Path
    cores: str | None

    def known(self, name: str) -> Point | None:
        lines = self.keep.read_text("utf-8").splitlines() if self.keep.is_file() else []
        points = (Point(**json.loads(line)) for line in lines)
        return next(
            (
                point
                for point in points
                if (point.text, point.time, point.name) == (self.text, self.time, name)
            ),
            None,
        )

    def center(self) -> Point:
        """What the dial chooses."""
        return self.known("the dial") or self._run(
            "the dial", ["--time", self.time, self.source, "--data.val_fraction", "0.1"], 1.0
        )

    def neighbour(self, name: str, recipe: Recipe, center: Point) -> Point:
        """Another recipe, for as many steps as it has time for."""
        if (point := self.known(name)) is not None:
            return point
        command = [
            *self._pinned(),
            sys.executable,
            "-m",
            "benchmarks.dial",
            "--pace",
            json.dumps(center.recipe),
            json.dumps(recipe),
        ]
        measured = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        recipe["train"] |= {"steps": max(1, round(center.steps / measured))}
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump({"source": [self.source], **recipe}))
        return self._run(name, ["--config", str(self.folder / "recipe.yaml")], measured)

    def _run(self, name: str, options: list[str], pace: float) -> Point:
        """One whole command, with an empty cache."""
        out, cache = self.folder / "run", self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        command = [
            *self._pinned(),
            sys.executable,
            "-m",
            "newleaf",
            "pretrain",
            *options,
            "--out",
            str(out),
            "--overwrite",
            "--quiet",
        ]
        if self.cores:
            command += ["--threads", str(len(self.cores.split(",")))]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"NEWLEAF_CACHE": str(cache)}
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        found = json.loads((out / "summary.json").read_text("utf-8"))
        whole = yaml.safe_load((out / "run.yaml").read_text("utf-8"))
        recipe = {
            "data": {
                field: whole["data"][field] for field in ("val_fraction", "train_bytes", "validation_bytes")
            },
            "tokenizer": {field: whole["tokenizer"][field] for field in ("vocab_size", "train_bytes")},
            "model": {field: whole["model"][field] for field in choose_size(1, Budget(tokens=1)).model},
            "optimizer": {rate: whole["optimizer"][rate] for rate in RATES.values()},
            "train": {"batch_size": whole["train"]["batch_size"]},
        }
        figures = (
            found["val_bits_per_byte"],
            found["parameters"],
            found["steps"],
            found["tokens_seen"],
            found["total_seconds"],
        )
        point = Point(self.text, self.time, name, recipe, pace, *figures)
        with self.keep.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(point)) + "\n")
        return point

    def _pinned(self) -> list[str]:
        return ["taskset", "-c", self.cores] if self.cores else []


def grid(here: Grid, args: argparse.Namespace) -> Iterator[Point]:
    """The dial's own choice, then its neighbours."""
    center = here.center()
    yield center
    for name, changes in neighbours(center.recipe, args.only, args.reach):
        yield here.neighbour(
            name,
            {section: fields | changes.get(section, {}) for section, fields in center.recipe.items()},
            center,
        )


def neighbours(recipe: Recipe, kinds: list[str], reach: int) -> Iterator[tuple[str, Recipe]]:
    """Their names, and the fields that they change."""
    model, windows = recipe["model"], recipe["train"]["batch_size"]
    if "size" in kinds:
        at = [rung[:2] for rung in MODEL_SIZES].index((model["n_layer"], model["n_embd"]))
        for step in sorted(range(-reach, reach + 1), key=abs):
            if step and 0 <= at + step < len(MODEL_SIZES):
                layers, width, _ = MODEL_SIZES[at + step]
                chosen = choose_size(1, Budget(tokens=1), f"{layers}x{width}")
                shape = {
                    field: value for field, value in chosen.model.items() if not field.endswith("dropout")
                }
                yield f"{layers} × {width}", {"model": shape, "train": {"batch_size": chosen.batch_size}}
    if "vocabulary" in kinds:
        for vocabulary in (recipe["tokenizer"]["vocab_size"] // 2, recipe["tokenizer"]["vocab_size"] * 2):
            yield f"vocabulary {vocabulary}", {"tokenizer": {"vocab_size": vocabulary}}
    if "batch" in kinds:
        for count in (windows // 2, windows * 2):
            yield f"{count} windows a step", {"train": {"batch_size": count}}
    if "rate" in kinds:
        for of, name in RATES.items():
            for factor in (1 / RATE, RATE):
                yield f"{of} rate × {factor:.2f}", {"optimizer": {name: recipe["optimizer"][name] * factor}}


def pace(one: Recipe, other: Recipe) -> float:
    """How long a step of `other` takes, in steps of `one`: the median over turns that each takes right after
    the other."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    first, second = (_stepper(recipe) for recipe in (one, other))
    times = [(_seconds(first), _seconds(second)) for _ in range(TURNS)]
    return statistics.median(after / before for before, after in times[TURNS // 8 :])


def _seconds(step: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _stepper(recipe: Recipe) -> Callable[[], Any]:
    """A function that takes a step on random tokens."""
    from benchmarks.train_speed import newleaf_step
    from newleaf.kernels.matmul_speed import bf16_is_faster
    from newleaf.model import GPTConfig
    from newleaf.train.objective.optimizer_config import OptimizerConfig

    config = GPTConfig(vocab_size=recipe["tokenizer"]["vocab_size"], **recipe["model"])
    step = newleaf_step(
        config, OptimizerConfig(), recipe["train"]["batch_size"], bf16_is_faster(torch.device("cpu"))
    )
    tokens = torch.randint(config.vocab_size, (recipe["train"]["batch_size"], config.context_length + 1))
    return lambda: step(tokens)


def show(points: list[Point]) -> None:
    best = min(point.bits_per_byte for point in points)
    table = Table("run", "bits per byte", "over the best", "parameters", "a step takes", "steps", "tokens")
    over = points[0].bits_per_byte / best - 1
    table.title = (
        f"{points[0].text}, --time {points[0].time}: the dial is {over:.2%} over the best of {len(points)}"
    )
    for point in points:
        table.add_row(
            point.name, f"{point.bits_per_byte:.4f}", f"{point.bits_per_byte / best - 1:.2%}",
            f"{point.parameters:,}", f"{point.pace:.2f} ×", f"{point.steps:,}", f"{point.tokens:,}",
        )  # fmt: skip
    Console().print(table)


def _source(text: str, folder: Path) -> str:
    if text != "stdlib":
        return text
    files = [*standard_library_files()[0], *standard_library_files()[1]]
    whole = folder / "stdlib.txt"
    whole.write_text("\n".join(path.read_text("utf-8") for path in files), "utf-8")
    return str(whole)


if __name__ == "__main__":
    main()
