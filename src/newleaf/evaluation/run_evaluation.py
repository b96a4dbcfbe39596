"""One evaluation: every task on the model, on another to compare with, and what follows from both."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from newleaf.errors import InputError
from newleaf.evaluation.contamination import check_contamination
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Evaluation, Progress, TaskResult
from newleaf.evaluation.statistics import Difference, compare
from newleaf.evaluation.task import Marks, Metric, Setting
from newleaf.evaluation.task_registry import Job, find_job, find_label_job
from newleaf.evaluation.text_units import compare_texts
from newleaf.version import VERSION

ANSWERS, AGAINST = "answers", "against"


def find_jobs(tasks: Sequence[str], setting: Setting, labels: bool = False) -> list[Job]:
    """The tasks by their names or files, checked before any work; with `labels`, those of a classifier.
    Raises InputError for one that does not exist or cannot run."""
    if isinstance(tasks, str) or not tasks:
        raise InputError("tasks: give a list of task names or files, such as hellaswag or a text")
    jobs = [
        find_label_job(str(name)) if labels else find_job(str(name), setting.data.encoding) for name in tasks
    ]
    seen: dict[str, int] = {}
    for number, job in enumerate(jobs):
        seen[job.name] = seen.get(job.name, 0) + 1
        if seen[job.name] > 1:
            jobs[number] = replace(job, name=f"{job.name}-{seen[job.name]}")
    for job in jobs:
        job.check(setting)
    return jobs


def evaluate(
    subject: EvaluatedModel,
    jobs: Sequence[Job],
    setting: Setting,
    progress: Progress,
    out: Path | None = None,
    against: EvaluatedModel | None = None,
    training: Sequence[str] = (),
) -> Evaluation:
    """Run the tasks, and the same on `against`. Answers are kept under `out`/answers and taken from there
    when they are there already. `training` are texts in which the tasks' rows are looked for."""
    found = _run(subject, jobs, setting, progress, out / ANSWERS if out is not None else None)
    if training:
        tokenizer = subject.tokenizer if isinstance(subject, LocalModel) else None
        tasks, notes = check_contamination(found.tasks, training, tokenizer)
        found = replace(found, tasks=tasks, notes=[*found.notes, *notes])
    if against is None:
        return found
    other = _run(against, jobs, setting, progress, out / AGAINST / ANSWERS if out is not None else None)
    differences = {a.task: differences_of(a, b) for a, b in zip(found.tasks, other.tasks, strict=True)}
    return replace(
        found, against=other, differences={task: each for task, each in differences.items() if each}
    )


def _run(
    subject: EvaluatedModel, jobs: Sequence[Job], setting: Setting, progress: Progress, answers: Path | None
) -> Evaluation:
    results = []
    for job in jobs:
        path = answers / (re.sub(r"[^\w.-]+", "_", job.name) + ".jsonl") if answers is not None else None
        results.append(replace(job.run(subject, setting, path, progress), task=job.name))
    notes = []
    if isinstance(subject, LocalModel) and subject.truncated:
        notes.append(
            f"{subject.truncated:,} prompts did not fit the context of {subject.context_length:,} and lost "
            f"their beginning"
        )
    if isinstance(subject, LocalModel) and subject.cut is not None:
        asked, most = subject.cut
        notes.append(
            f"texts are cut at {most:,} tokens, not {asked:,}: the model's context is "
            f"{subject.context_length:,} with the prompt"
        )
    return Evaluation(subject.name, subject.about(), results, notes=notes, version=VERSION)


def differences_of(a: TaskResult, b: TaskResult) -> dict[str, Difference]:
    """Each score that both have, compared on the items that both answered. Perplexities are compared by their
    logarithms."""
    ours = dict(zip(a.wheres, a.marks, strict=True))
    theirs = dict(zip(b.wheres, b.marks, strict=True))
    both = [where for where in a.wheres if where in theirs]
    found = {}
    for measure in a.measures:
        if not both or measure.name not in a.scores or measure.name not in b.scores:
            continue
        one, other = [ours[where] for where in both], [theirs[where] for where in both]
        difference = _difference(measure, one, other, *(_parts_of(each, both) for each in (a, b)))
        name = f"log {measure.name}" if measure.finish == "exp" else measure.name
        if difference is not None and math.isfinite(difference.value):
            found[name] = difference
    return found


def _parts_of(result: TaskResult, wheres: Sequence[str]) -> list[Sequence[Marks]]:
    known = dict(zip(result.wheres, result.parts, strict=False))
    return [known[where] for where in wheres if where in known]


def _difference(
    measure: Metric,
    one: list[Marks],
    other: list[Marks],
    parts: list[Sequence[Marks]],
    other_parts: list[Sequence[Marks]],
) -> Difference | None:
    """None where the two scores are not of the same things, such as the tokens of different tokenizers."""
    if parts and other_parts:
        return compare_texts(measure, (one, parts), (other, other_parts))
    weights = [each[measure.weight] for each in one] if measure.weight is not None else None
    if measure.weight is not None and weights != [each[measure.weight] for each in other]:
        return None
    return compare([each[measure.mark] for each in one], [each[measure.mark] for each in other], weights)
