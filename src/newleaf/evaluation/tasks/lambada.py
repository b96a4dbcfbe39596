"""LAMBADA (Paperno et al. 2016): the last word of a passage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import LoglikelihoodRequest
from newleaf.evaluation.multiple_choice import ACC
from newleaf.evaluation.task import (
    Item,
    Marks,
    Metric,
    Setting,
    Task,
    TaskItems,
    find_file,
    limited,
    scores_of,
)
from newleaf.evaluation.task_rows import BadRowError, Row, parse_each, read_rows


def _lambada_questions(setting: Setting, path: Path | None) -> TaskItems:
    if setting.shots:
        raise InputError("shots: lambada is asked without examples")
    file = find_file("lambada", setting, path or "lambada.jsonl")
    rows, problems = read_rows(file, setting.data.encoding)

    def item(row: Row) -> Item:
        whole = (
            row.text("context") + row.text("continuation") if "context" in row.fields else row.text("text")
        )
        context, space, word = whole.rpartition(" ")
        if not space or not word or not context:
            raise BadRowError("needs a context and a last word after a space")
        return Item(row.where, LoglikelihoodRequest(context, (f" {word}",)), f" {word}")

    items, bad = parse_each(limited(rows, setting), item)
    return TaskItems(items, problems + bad, {"shots": 0, "file": str(file)})


def _mark_lambada(item: Item, answer: Any) -> Marks:
    (score,) = scores_of(answer)
    return {"acc": float(score.greedy), "nats": -score.logprob}


def lambada(path: Path | None = None) -> Task:
    """LAMBADA (Paperno et al. 2016): the last word of a passage, right where each of its tokens is the
    likeliest."""
    perplexity = Metric("perplexity", "nats", finish="exp", higher_is_better=False)
    return Task(
        "lambada", lambda setting: _lambada_questions(setting, path), _mark_lambada, (ACC, perplexity)
    )
