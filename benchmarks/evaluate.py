"""HellaSwag items a second: newleaf beside lm-evaluation-harness's transformers back end, on the same rows,
in bf16, in one process.

    python -m benchmarks.evaluate MODEL --data-dir DIR [--limit 96] [--batch-sizes 1 8 32] [--fp32]
    python -m benchmarks.evaluate MODEL --data-dir DIR --agreement [--limit 20]

MODEL is anything newleaf opens; the harness reads a folder that newleaf writes of it, and runs its own
HellaSwag task (its requests are built before the clock runs). Each side's best batch size counts; then both
run again in turns, and the medians are compared. The table says how many answers agree, and how far
log-likelihoods lie from those in fp32 (--fp32). With --agreement, every likelihood task runs on both sides in
fp32, and the table says how far they are apart.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import newleaf
from newleaf.evaluation.evaluated_model import LoglikelihoodRequest
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.task import Item, Setting
from newleaf.evaluation.task_registry import CHOICE_TASKS
from newleaf.evaluation.tasks.lambada import lambada
from newleaf.measure.loglikelihood import Score


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fp32", action="store_true", help="run both in fp32 too, and compare with that")
    parser.add_argument(
        "--agreement", action="store_true", help="all likelihood tasks in fp32 on both sides, not timed"
    )
    args = parser.parse_args()
    if args.agreement:
        return agreement(args)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    task = next(each for each in CHOICE_TASKS if each.name == "hellaswag").task()
    items = task.questions(Setting(args.data_dir, args.limit)).items
    table = Table("", "items/s", "acc", "acc_norm", "answers as fp32's", "mean |Δ log-likelihood| from fp32")
    with tempfile.TemporaryDirectory() as folder:
        model = newleaf.load(args.model, weights="bf16")
        ours = LocalModel(model.network, model.tokenizer, "newleaf")
        model.save(Path(folder) / "model")
        theirs = harness(Path(folder) / "model", torch.bfloat16)
        ours_scores, _ = run_ours(ours, items)  # warms up
        quickest = min(args.batch_sizes, key=lambda size: run_theirs(theirs, items[:16], size)[1])
        our_times, their_times = [], []
        for _ in range(args.repeats):
            ours_scores, seconds = run_ours(ours, items)
            our_times.append(seconds)
            their_scores, seconds = run_theirs(theirs, items, quickest)
            their_times.append(seconds)
            print(
                f"newleaf {len(items) / our_times[-1]:.2f}, lm_eval {len(items) / their_times[-1]:.2f} "
                f"items/s",
                flush=True,
            )
        exact = None
        if args.fp32:
            wide = newleaf.load(args.model, weights="fp32")
            exact, _ = run_ours(LocalModel(wide.network, wide.tokenizer, "fp32"), items)
            del wide
            exact_theirs, _ = run_theirs(harness(Path(folder) / "model", torch.float32), items, quickest)
            table.add_row("newleaf fp32", "", *scores(items, exact, exact))
            table.add_row("lm_eval, transformers fp32", "", *scores(items, exact_theirs, exact))
    ours_speed, their_speed = (
        len(items) / statistics.median(our_times),
        len(items) / statistics.median(their_times),
    )
    table.add_row("newleaf bf16", f"{ours_speed:.2f}", *scores(items, ours_scores, exact))
    table.add_row(
        f"lm_eval, transformers bf16, batches of {quickest}",
        f"{their_speed:.2f}",
        *scores(items, their_scores, exact),
    )
    table.title = (
        f"HellaSwag, {len(items)} items, {Path(args.model).name}, {torch.get_num_threads()} threads: "
        f"{ours_speed / their_speed:.2f}×"
    )
    Console(width=140).print(table)
    print(json.dumps({"newleaf": ours_speed, "lm_eval": their_speed, "ratio": ours_speed / their_speed}))


def agreement(args: argparse.Namespace) -> None:
    """Every likelihood task in fp32 on both sides."""
    table = Table(
        "task",
        "items",
        "acc newleaf",
        "acc lm_eval",
        "same answers",
        "greedy agrees",
        "largest |Δ log-likelihood|",
    )
    with tempfile.TemporaryDirectory() as folder:
        model = newleaf.load(args.model, weights="fp32")
        ours = LocalModel(model.network, model.tokenizer, "newleaf")
        model.save(Path(folder) / "model")
        theirs = harness(Path(folder) / "model", torch.float32)
        for task in [*(each.task() for each in CHOICE_TASKS), lambada()]:
            items = task.questions(Setting(args.data_dir, args.limit)).items
            found = dict(
                ours.score([item.ask for item in items if isinstance(item.ask, LoglikelihoodRequest)])
            )
            wanted = raw_theirs(theirs, items, 1)
            own = [found[number] for number in range(len(items))]
            answers = [
                [task.mark(item, scores)["acc"] for item, scores in zip(items, side)]
                for side in (own, wanted)
            ]
            pairs = [pair for one, other in zip(own, wanted) for pair in zip(one, other)]
            greedy = sum(a.greedy == b.greedy for a, b in pairs)
            table.add_row(
                task.name, str(len(items)), *(f"{100 * np.mean(each):.1f} %" for each in answers),
                f"{sum(a == b for a, b in zip(*answers))} of {len(items)}", f"{greedy} of {len(pairs)}",
                f"{max(abs(a.logprob - b.logprob) for a, b in pairs):.1e}",
            )  # fmt: skip
            Console(width=140).print(table)


def raw_theirs(model: Any, items: list[Item], batch_size: int) -> list[list[Score]]:
    from lm_eval.api.instance import Instance

    pairs = [(item.ask.context, each) for item in items for each in item.ask.continuations]
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
    model.batch_size_per_gpu = batch_size
    found = iter(model.loglikelihood(requests, disable_tqdm=True))
    return [[Score(*next(found), 0) for _ in item.ask.continuations] for item in items]


def harness(folder: Path, dtype: torch.dtype) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), dtype=dtype, device="cpu", batch_size=1)


def run_ours(subject: LocalModel, items: list[Item]) -> tuple[list[list[float]], float]:
    begun = time.perf_counter()
    found = dict(subject.score([item.ask for item in items if isinstance(item.ask, LoglikelihoodRequest)]))
    seconds = time.perf_counter() - begun
    return [[score.logprob for score in found[number]] for number in range(len(items))], seconds


def run_theirs(model: Any, items: list[Item], batch_size: int) -> tuple[list[list[float]], float]:
    begun = time.perf_counter()
    found = raw_theirs(model, items, batch_size)
    return [[score.logprob for score in each] for each in found], time.perf_counter() - begun


def scores(items: list[Item], found: list[list[float]], exact: list[list[float]] | None) -> list[str]:
    best = [int(np.argmax(each)) for each in found]
    normed = [int(np.argmax(np.array(each) / item.fields["lengths"])) for item, each in zip(items, found)]
    shares = [
        f"{100 * np.mean([a == item.gold for a, item in zip(own, items)]):.1f} %" for own in (best, normed)
    ]
    if exact is None:
        return [*shares, "", ""]
    same = sum(int(np.argmax(each)) == own for each, own in zip(exact, best))
    far = np.mean([abs(a - b) for one, other in zip(found, exact) for a, b in zip(one, other)])
    return [*shares, f"{same} of {len(items)}", f"{far:.4f}"]


if __name__ == "__main__":
    main()
