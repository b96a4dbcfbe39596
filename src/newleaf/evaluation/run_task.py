"""Runs a task of questions on a model: asks what was not answered before, marks, and adds up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel, LoglikelihoodRequest, RefusedRequest
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.sample_log import Sample, SampleLog
from newleaf.evaluation.task import Item, Marks, Metric, Setting, Task


def run_questions(
    task: Task, subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """The task's scores. Raises InputError when no row of it can be asked."""
    task.check(setting)
    if setting.chat and task.writing is None:
        raise InputError(
            f"{task.name}: likelihoods are asked for without a chat template; lm_eval:{task.name} takes one"
        )
    questions = task.questions(setting)
    if not questions.items:
        raise InputError(
            f"{task.name}: no row can be asked; "
            + (questions.problems[0] if questions.problems else "there are none")
        )
    writing = task.writing(setting) if task.writing is not None else None
    begun, asked = time.monotonic(), 0
    with SampleLog(journal, [subject.fingerprint, task.name, repr(writing)]) as kept:
        found = [kept.find(item) for item in questions.items]
        todo = [number for number, each in enumerate(found) if each is None]
        progress(task.name, len(found) - len(todo), len(found))
        for place, answer in _answers(task, subject, setting, [questions.items[number] for number in todo]):
            item = questions.items[todo[place]]
            if isinstance(answer, RefusedRequest):
                found[todo[place]] = Sample(None, {}, answer.reason)
            else:
                found[todo[place]] = marked = Sample(answer, task.mark(item, answer))
                kept.add(item, marked)
            asked += 1
            progress(task.name, len(found) - len(todo) + asked, len(found))
        answered = [
            each if each is not None else Sample(None, {}, "the model gave no answer") for each in found
        ]
        kept.finish(questions.items, answered)
    refused = [
        f"{item.where}: {each.refused}"
        for item, each in zip(questions.items, answered, strict=True)
        if each.refused
    ]
    pairs = [(item, each) for item, each in zip(questions.items, answered, strict=True) if not each.refused]
    if not pairs:
        raise InputError(f"{task.name}: the model answered nothing; {refused[0]}")
    return _added_up(
        task, pairs, questions.problems + refused, questions.setting, time.monotonic() - begun, asked
    )


def _answers(
    task: Task, subject: EvaluatedModel, setting: Setting, items: list[Item]
) -> Iterator[tuple[int, Any]]:
    if not items:
        return iter(())
    if task.writing is not None:
        return subject.write([str(item.ask) for item in items], task.writing(setting))
    return subject.score([item.ask for item in items if isinstance(item.ask, LoglikelihoodRequest)])


def _added_up(
    task: Task,
    pairs: list[tuple[Item, Sample]],
    left_out: list[str],
    setting: dict[str, Any],
    seconds: float,
    asked: int,
) -> TaskResult:
    marks = [each.marks for _, each in pairs]
    measures = tuple(
        measure
        for measure in task.measures
        if all(measure.mark in each for each in marks) and _counts(measure, marks)
    )
    scores = {measure.name: measure.of(marks) for measure in measures}
    if task.corpus_measures:
        outputs, references = (
            [str(each.answer[0]) for _, each in pairs],
            [list(item.gold) for item, _ in pairs],
        )
        scores |= {measure.name: measure.of_texts(outputs, references) for measure in task.corpus_measures}
    items = [item for item, _ in pairs]
    chances = {
        name: _chance(task, [item for item in items if item.group == name], measures)
        for name in {item.group for item in items}
    }
    return TaskResult(
        task.name,
        scores,
        measures,
        _by_group(pairs, measures),
        left_out,
        setting,
        seconds,
        [item.where for item in items],
        marks,
        asked=asked,
        chance=_chance(task, items, measures),
        group_chance=chances,
    )


def _chance(task: Task, items: list[Item], measures: tuple[Metric, ...]) -> dict[str, float]:
    """What guessing reaches on these items, the mean over them."""
    if task.chance is None:
        return {}
    value = sum(map(task.chance, items)) / len(items)
    return {measure.name: value for measure in measures}


def _counts(measure: Metric, marks: list[Marks]) -> bool:
    return measure.weight is None or sum(each[measure.weight] for each in marks) > 0


def _by_group(pairs: list[tuple[Item, Sample]], measures: tuple[Metric, ...]) -> dict[str, Any]:
    names = sorted({item.group for item, _ in pairs if item.group})
    if not names:
        return {}
    groups = {name: [each.marks for item, each in pairs if item.group == name] for name in names}
    return {
        name: {each.name: each.of(marks) for each in measures if _counts(each, marks)}
        for name, marks in groups.items()
    }
