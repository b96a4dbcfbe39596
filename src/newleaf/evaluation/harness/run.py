"""A task of lm-evaluation-harness, run on an open model."""

from __future__ import annotations

import logging
import time
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.harness.lm import NewleafLM
from newleaf.evaluation.harness.local_data import local_data
from newleaf.evaluation.local_model import LocalModel
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.sample_log import Sample, SampleLog
from newleaf.evaluation.statistics import Estimate
from newleaf.evaluation.task import Item, Metric, Setting

METRICS_WITH_CHANCE = ("acc", "acc_norm")  # scores that guessing reaches something of


@cache
def task_manager() -> Any:
    """The harness's list of tasks, which takes seconds to read."""
    return TaskManager()


def check_harness(name: str, setting: Setting) -> None:
    """Raises InputError when the harness has no task of this name, offering the nearest."""
    import difflib

    known = task_manager().all_tasks
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"lm_eval:{name}: lm-evaluation-harness has no such task"
            + (f"; did you mean lm_eval:{near[0]}?" if near else "")
        )


def run_harness(
    name: str, subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """The task as the harness runs it, with its samples in the journal. Raises InputError for an address (the
    harness has its own client), and for what the harness cannot do."""
    if not isinstance(subject, LocalModel):
        raise InputError(
            f"lm_eval:{name}: runs on a local model; for an address, use lm-evaluation-harness's own client "
            f"(local-completions)"
        )
    begun = time.monotonic()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with local_data(setting.data_dir):
        found: Any = simple_evaluate(
            NewleafLM(subject, lambda what, done, total: progress(f"{name}: {what}", done, total)),
            tasks=[name],
            num_fewshot=setting.shots,
            limit=setting.limit,
            apply_chat_template=setting.chat,
            bootstrap_iters=0,
            confirm_run_unsafe_code=setting.allow_code,
            log_samples=True,
            task_manager=task_manager(),
        )
    return _result(name, found, setting, journal, subject, time.monotonic() - begun)


def _result(
    name: str, found: Any, setting: Setting, journal: Path | None, subject: LocalModel, seconds: float
) -> TaskResult:
    groups = {
        task: _estimates(scores, len(found["samples"][task]))
        for task, scores in found["results"].items()
        if task in found["samples"]
    }
    whole = found["results"].get(name, {})
    count = sum(len(samples) for samples in found["samples"].values())
    scores = _estimates(whole, count) if name not in groups else groups.pop(name)
    items: list[Item] = []
    answers: list[Sample] = []
    for task, samples in found["samples"].items():
        for sample in samples:
            marks = {
                key: float(sample[key])
                for key in sample.get("metrics", [])
                if isinstance(sample.get(key), int | float)
            }
            first = sample["arguments"][0][0] if sample["arguments"] else ""
            items.append(
                Item(f"{task}:{sample['doc_id']}", str(first), sample["target"], group=task if groups else "")
            )
            answers.append(Sample(sample["filtered_resps"], marks))
    with SampleLog(journal, [subject.fingerprint, name, setting.shots]) as kept:
        kept.finish(items, answers)
    measures = tuple(Metric(key, key) for key in scores if all(key in each.marks for each in answers))
    chance = _chance(found, name)
    shots = next(iter(found.get("n-shot", {}).values()), setting.shots)
    versions = {
        "shots": shots,
        "harness": found.get("lm_eval_version") or _version(),
        "versions": found.get("versions", {}),
    }
    return TaskResult(
        name,
        scores,
        measures,
        groups,
        setting=versions,
        seconds=seconds,
        wheres=[item.where for item in items],
        marks=[each.marks for each in answers],
        asked=len(items),
        chance={score: chance for score in scores if score in METRICS_WITH_CHANCE and chance},
    )


def _chance(found: Any, name: str) -> float:
    """How often a guess is right where all answers are chosen from several, and 0 elsewhere."""
    configs = found.get("configs", {})
    if any(configs.get(task, {}).get("output_type") != "multiple_choice" for task in found["samples"]):
        return 0.0
    counts = [len(sample["arguments"]) for samples in found["samples"].values() for sample in samples]
    return sum(1 / count for count in counts if count) / max(1, len(counts))


def _estimates(scores: dict[str, Any], count: int) -> dict[str, Estimate]:
    """The harness's scores and standard errors, with the interval of a normal distribution."""
    found = {}
    for key, value in scores.items():
        metric, _, which = key.partition(",")
        if not isinstance(value, int | float) or "_stderr" in metric or not which:
            continue
        error = scores.get(f"{metric}_stderr,{which}")
        error = float(error) if isinstance(error, int | float) else 0.0
        label = metric if which == "none" else f"{metric}_{which}"
        found[label] = Estimate(
            float(value), error, float(value) - 1.96 * error, float(value) + 1.96 * error, count
        )
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
