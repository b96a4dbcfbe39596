"""Which tasks there are, by name, and what a file stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from newleaf.data.compression import COMPRESSED_SUFFIXES
from newleaf.data.row_files import FORMATS, format_of
from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.run_task import run_questions
from newleaf.evaluation.task import Setting, Task
from newleaf.evaluation.tasks.arc_easy import ARC_EASY
from newleaf.evaluation.tasks.gsm8k import gsm8k
from newleaf.evaluation.tasks.hellaswag import HELLASWAG
from newleaf.evaluation.tasks.lambada import lambada
from newleaf.evaluation.tasks.mmlu import MMLU
from newleaf.evaluation.tasks.sst2 import SST2
from newleaf.evaluation.tasks.truthfulqa import TRUTHFULQA

HARNESS = "lm_eval:"

Run = Callable[[EvaluatedModel, Setting, Path | None, Progress], TaskResult]


CHOICE_TASKS = (HELLASWAG, ARC_EASY, MMLU, TRUTHFULQA, SST2)


@dataclass(frozen=True)
class Job:
    """A task that is ready to run: its name, what runs it, and what says, before any work, that it cannot."""

    name: str
    run: Run
    check: Callable[[Setting], object]


def _questions(task: Task) -> Job:
    def check(setting: Setting) -> None:
        task.check(setting)
        task.questions(setting)

    return Job(
        task.name,
        lambda subject, setting, journal, progress: run_questions(task, subject, setting, journal, progress),
        check,
    )


def _built_in(name: str, path: Path | None = None) -> Job | None:
    from newleaf.evaluation.tasks.humaneval import humaneval

    makers: dict[str, Callable[[Path | None], Task]] = {each.name: each.task for each in CHOICE_TASKS}
    makers |= {"lambada": lambada, "gsm8k_cot": gsm8k, "humaneval": humaneval}
    if name in makers:
        return _questions(makers[name](path))
    if name.startswith("mmlu_"):
        return _questions(replace(MMLU, name=name, only=name.removeprefix("mmlu_")).task(path))
    if name == "speed":
        from newleaf.evaluation.tasks.speed import run_speed

        return Job(name, run_speed, lambda setting: None)
    return None


NAMES = (*(task.name for task in CHOICE_TASKS), "lambada", "gsm8k_cot", "humaneval", "speed")
WITHOUT_ROWS = ("speed",)
# what the data's files are called, where it is not the task's name
FILES = {"gsm8k": "gsm8k_cot", "mmlu_test": "mmlu"}


def find_job(name: str, encoding: str | None = None) -> Job:
    """The task of this name, lm_eval:NAME of the harness, or what a file stands for: a built-in task's rows
    by the file's name, {prompt, references} to be answered, and otherwise text to be predicted. Raises
    InputError with the nearest name when there is none."""
    if name.startswith(HARNESS):
        return _harness_job(name.removeprefix(HARNESS))
    path = Path(name)
    if not name.strip():
        raise InputError("the name of a task or file is empty")
    if path.exists():
        return _file_job(path, encoding)
    looks_like_a_file = path.suffix != "" or "/" in name or "*" in name
    job = None if looks_like_a_file else _built_in(name)
    if job is not None:
        return job
    if looks_like_a_file:
        raise InputError(f"{name}: no such file")
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
    raise InputError(
        f"{name}: no such task or file; {hint} Tasks of lm-evaluation-harness are called {HARNESS}{name}"
    )


def find_label_job(name: str) -> Job:
    """A file of labelled rows, for a classifier. Raises InputError for anything else."""
    from newleaf.evaluation.classifier_evaluation import check_classifier_options, evaluate_classifier

    path = Path(name)
    if not path.is_file():
        known = name.startswith(HARNESS) or name in NAMES or name.startswith("mmlu_")
        what = "asks a language model, and a classifier gives labels" if known else "no such file"
        raise InputError(f"{name}: {what}; give a file of labelled rows, such as test.csv or test.jsonl")
    return Job(
        path.name.partition(".")[0] or name,
        lambda subject, setting, journal, progress: evaluate_classifier(
            path, subject, setting, journal, progress
        ),
        lambda setting: check_classifier_options(name, setting),
    )


def _refuse_labels(path: Path, setting: Setting) -> None:
    """Raises InputError for labelled rows, which are for classifiers, unless a field is named as text."""
    from newleaf.evaluation.labelled_rows import label_field

    asked = next(
        (name for name in ("label", "text", "second") if getattr(setting.data, name) is not None), None
    )
    if asked is not None:
        raise InputError(
            f"data.{asked}: is of labelled rows, which are for classifiers; --data.field names the text to "
            f"be predicted"
        )
    labels = (
        label_field(path, setting.data.encoding) if setting.data.field is None and is_rows(path) else None
    )
    if labels is not None:
        raise InputError(
            f"{path}: has labels (field {labels!r}), and a language model gives none; newleaf finetune "
            f"--task classify makes a "
            "classifier, and --data.field NAME scores a field as text"
        )


def is_rows(path: Path) -> bool:
    """Whether the file's name is that of rows."""
    return path.is_file() and format_of(path) in FORMATS


def _file_job(path: Path, encoding: str | None) -> Job:
    from newleaf.evaluation.perplexity import run_text
    from newleaf.evaluation.reference_texts import generation_task, is_generation_file

    if is_rows(path):
        stem = (path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path).stem
        job = _built_in(FILES.get(stem, stem), path) if stem not in WITHOUT_ROWS else None
        if job is not None:
            return job
        if is_generation_file(path, encoding):
            return _questions(generation_task(stem, path))
    return Job(
        path.stem or str(path),
        lambda subject, setting, journal, progress: run_text(path, subject, setting, journal, progress),
        lambda setting: _refuse_labels(path, setting),
    )


def _harness_job(name: str) -> Job:
    def run(
        subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
    ) -> TaskResult:
        from newleaf.evaluation.harness import run_harness

        return run_harness(name, subject, setting, journal, progress)

    def check(setting: Setting) -> None:
        from newleaf.evaluation.harness import check_harness

        check_harness(name, setting)

    return Job(HARNESS + name, run, check)
