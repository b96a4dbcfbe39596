"""Labelled rows as a task: a classifier's accuracy, F1, confusion and the commonest label beside them; of a
regression its errors."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import EvaluatedModel, GenerationOptions, LoglikelihoodRequest
from newleaf.evaluation.labelled_rows import LabelledRow, read_labelled
from newleaf.evaluation.result import Progress, TaskResult
from newleaf.evaluation.sample_log import Sample, SampleLog
from newleaf.evaluation.statistics import RESAMPLES, SEED, Estimate, interval_of
from newleaf.evaluation.task import Item, Marks, Metric, Setting
from newleaf.measure.classification import label_scores
from newleaf.tune.labels.classification_report import by_label, figures
from newleaf.tune.labels.text_classifier import LabelModel

ROWS_PER_BATCH = 256  # rows between two looks at the progress
MAX_RESAMPLED_CELLS = 20_000_000  # rows × labels that all resamples may add up to
ACCURACY = Metric("accuracy", "accuracy")
ERROR = Metric("mean_absolute_error", "error", higher_is_better=False)
SQUARED = Metric("mean_squared_error", "squared", higher_is_better=False)
GENERATION_ONLY_OPTIONS = ("shots", "template", "stride", "max_tokens", "temperature")

Floats = npt.NDArray[np.float64]


class LabelModelAdapter:
    """A classifier that is open in this process."""

    def __init__(self, labels: LabelModel, name: str, family: str = "") -> None:
        self.labels, self.name, self.family = labels, name, family

    @property
    def fingerprint(self) -> str:
        digest = hashlib.blake2b(
            f"{self.labels.tokenizer.fingerprint} {self.labels.head}".encode(), digest_size=16
        )
        for name, tensor in self.labels.network.state_dict().items():
            flat = tensor.detach().flatten()
            digest.update(
                name.encode() + flat[:: max(1, len(flat) // 512)].float().cpu().contiguous().numpy().tobytes()
            )
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        head = self.labels.head
        count = sum(tensor.numel() for tensor in self.labels.network.state_dict().values())
        labels = len(head.labels) if head.shape != "choice" else None
        return {
            "family": self.family,
            "task": head.shape,
            "parameters": count,
            "labels": labels,
            "fingerprint": self.fingerprint,
        }

    def score(self, asks: Sequence[LoglikelihoodRequest]) -> Any:
        raise self._refusal()

    def write(self, prompts: Sequence[str], how: GenerationOptions) -> Any:
        raise self._refusal()

    def _refusal(self) -> InputError:
        return InputError(f"{self.name}: gives labels, and this task asks how likely a text is, or for one")


def check_classifier_options(name: str, setting: Setting) -> None:
    """Raises InputError for options that mean nothing where labels are given."""
    given = [option for option in GENERATION_ONLY_OPTIONS if getattr(setting, option) is not None]
    given += ["chat"] if setting.chat else []
    if given:
        raise InputError(
            f"{given[0]}: {name} are rows for a classifier, which writes nothing; leave "
            f"--{given[0].replace('_', '-')} out"
        )
    if setting.data.field is not None or setting.data.document is not None:
        raise InputError(f"{name}: of labelled rows, --data.text names the text and --data.label the label")


def evaluate_classifier(
    path: Path, subject: EvaluatedModel, setting: Setting, journal: Path | None, progress: Progress
) -> TaskResult:
    """The classifier's scores on a file's rows. Raises InputError for a file without any that it can be
    asked."""
    assert isinstance(subject, LabelModelAdapter)
    name, begun = path.stem or str(path), time.monotonic()
    head = subject.labels.head
    rows, problems, fields = read_labelled(path, head, setting)
    items = [Item(row.where, " | ".join(row.texts), list(row.answers)) for row in rows]
    with SampleLog(journal, [subject.fingerprint, "labels", fields]) as kept:
        answered = [kept.find(item) for item in items]
        todo = [number for number, each in enumerate(answered) if each is None]
        progress(name, len(items) - len(todo), len(items))
        for first in range(0, len(todo), ROWS_PER_BATCH):
            some = todo[first : first + ROWS_PER_BATCH]
            for number, values in zip(
                some, subject.labels.outputs([rows[number].texts for number in some]), strict=True
            ):
                answered[number] = found = Sample(values, {})
                kept.add(items[number], found)
            progress(name, len(items) - len(todo) + first + len(some), len(items))
        complete = [each for each in answered if each is not None]
        kept.finish(items, complete)
    outputs = [np.asarray(each.answer, float) for each in complete]
    scored = _regression if head.regression else _labels
    result = scored(subject, name, rows, outputs)
    about = {"file": str(path), "fields": fields}
    return TaskResult(
        name,
        result["scores"],
        result["measures"],
        left_out=problems,
        setting=about,
        seconds=time.monotonic() - begun,
        wheres=[row.where for row in rows],
        marks=result["marks"],
        extra=result["extra"],
        asked=len(todo),
        chance=result["chance"],
    )


def _labels(
    subject: LabelModelAdapter, name: str, rows: Sequence[LabelledRow], outputs: Sequence[Floats]
) -> dict[str, Any]:
    head = subject.labels.head
    width = max(len(each) for each in outputs)
    table = np.stack([np.pad(each, (0, width - len(each))) for each in outputs])
    truth = np.array([row.truth for row in rows], dtype=np.int64)
    right = ((table > 0.5) == truth).all(1) if head.multi_label else table.argmax(1) == truth
    marks: list[Marks] = [{"accuracy": float(each)} for each in right]
    scores = {"accuracy": ACCURACY.of(marks)}
    scores |= _resampled(lambda some: figures(table[some], truth[some], head), len(rows), table.size)
    scores["accuracy"] = ACCURACY.of(marks)
    extra: dict[str, Any] = {}
    chance: dict[str, float] = {}
    if head.shape == "choice":
        chance["accuracy"] = float(np.mean([1 / len(each) for each in outputs]))
    elif not head.multi_label:
        chance["accuracy"] = 1 / len(head.labels)
        confusion = label_scores(table, truth).confusion
        names = [str(label) for label in head.labels]
        commonest = np.zeros_like(table)
        commonest[:, np.bincount(truth).argmax()] = 1
        baseline = {
            key: round(value, 4)
            for key, value in figures(commonest, truth, head).items()
            if key in ("accuracy", "macro_f1")
        }
        extra = {"labels": names, "by_label": by_label(names, confusion), "confusion": confusion.tolist()}
        extra["baselines"] = {"commonest label": baseline}
    return {"scores": scores, "measures": (ACCURACY,), "marks": marks, "extra": extra, "chance": chance}


def _regression(
    subject: LabelModelAdapter, name: str, rows: Sequence[LabelledRow], outputs: Sequence[Floats]
) -> dict[str, Any]:
    found = np.array([each[0] for each in outputs])
    truth = np.array([float(row.truth) for row in rows])
    gaps = np.abs(found - truth)
    marks: list[Marks] = [{"error": float(gap), "squared": float(gap) ** 2} for gap in gaps]
    scores = {measure.name: measure.of(marks) for measure in (ERROR, SQUARED)}
    if len(rows) > 2 and found.std() > 0 and truth.std() > 0:
        scores |= _resampled(
            lambda some: {"pearson": _pearson(found[some], truth[some])}, len(rows), len(rows)
        )
    mean = {"mean_absolute_error": round(float(np.abs(truth - truth.mean()).mean()), 4)}
    return {
        "scores": scores,
        "measures": (ERROR, SQUARED),
        "marks": marks,
        "extra": {"baselines": {"the mean": mean}},
        "chance": {},
    }


def _pearson(one: Floats, other: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(one, other)[0, 1])


def _resampled(
    of: Callable[[npt.NDArray[np.int64]], dict[str, float]], count: int, work: int
) -> dict[str, Estimate]:
    """Scores of all rows, with the bootstrap's standard error and interval over rows drawn with
    replacement."""
    values = of(np.arange(count))
    generator = np.random.default_rng(SEED)
    times = max(100, min(RESAMPLES // 10, MAX_RESAMPLED_CELLS // max(1, work)))
    drawn = [of(generator.integers(0, count, count)) for _ in range(times)] if count > 1 else []
    found = {}
    for name, value in values.items():
        column = np.array([each[name] for each in drawn] or [value])
        low, high = interval_of(column)
        found[name] = Estimate(value, float(np.nanstd(column)), low, high, count)
    return found
