"""Evaluation: the figures of a text, of rows with endings, of prompts with references, and of two models side
by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import newleaf
from tools.same_outputs.digest import kept
from tools.same_outputs.models import make_model
from tools.same_outputs.texts import endings, questions, write_book, write_rows
from tools.same_outputs.workplace import Workplace


def outputs(work: Workplace) -> dict[str, Any]:
    """In fp32 and in eight bits; then the command, with a second model against it."""
    small = work.once("models/gpt2-small", lambda path: make_model(path, "gpt2"))
    large = work.once("models/llama-large", lambda path: make_model(path, "llama", "large"))
    data = work.once("evaluation", write_data)
    tasks = [str(data / "text.txt"), str(data / "questions.jsonl"), "hellaswag"]
    found: dict[str, Any] = {}
    for name, folder, weights in (("small", small, "fp32"), ("large", large, "int8")):
        model = newleaf.load(folder, weights=weights, threads=work.threads)
        report = newleaf.evaluate(model, tasks, data_dir=data, max_tokens=12, quiet=True)
        found[name] = kept(report)
    words = (
        "evaluate",
        small,
        tasks[0],
        "hellaswag",
        "--data-dir",
        data,
        "--against",
        large,
        "--threads",
        work.threads,
        "--json",
    )
    return found | {"against": kept(work.json(*words))}


def write_data(folder: Path) -> None:
    folder.mkdir()
    write_book(folder / "text.txt", 4_000)
    write_rows(folder / "questions.jsonl", questions())
    write_rows(folder / "hellaswag.jsonl", endings())
