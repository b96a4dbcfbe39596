"""A task: what it asks of a model, how an answer is marked, and what its scores are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from newleaf.data.data_config import DocumentUnit
from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import GenerationOptions, LoglikelihoodRequest
from newleaf.evaluation.statistics import Array, Estimate, estimate
from newleaf.evaluation.task_rows import Row
from newleaf.measure.loglikelihood import Score

Marks = dict[str, float]


@dataclass(frozen=True)
class RowFields:
    """How files are read: `field` names the text of a row to be predicted; `text`, `second`, `choices` and
    `label` those of labelled rows; `document` says what a document of a .txt file is. What is not named is
    guessed."""

    field: str | None = None
    text: str | None = None
    second: str | None = None
    choices: tuple[str, ...] = ()
    label: str | None = None
    encoding: str | None = None
    document: DocumentUnit | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> RowFields:
        """From options. Raises InputError for one that does not exist."""
        known = cls.__dataclass_fields__
        if unknown := [name for name in values if name not in known]:
            raise InputError(
                f"data.{unknown[0]}: there is no such option of evaluation; there are {', '.join(known)}"
            )
        choices = values.get("choices") or ()
        names = tuple(choices.split(",")) if isinstance(choices, str) else tuple(choices)
        return cls(**{**values, "choices": names})


@dataclass(frozen=True)
class Setting:
    """How tasks are run. `shots` None takes each task's own number."""

    data_dir: Path | None = None
    limit: int | None = None
    shots: int | None = None
    allow_code: bool = False
    samples: int = 1  # programs for each problem
    temperature: float | None = None
    max_tokens: int | None = None
    template: str | None = None
    chat: bool = False  # prompts as messages in the model's chat template
    stride: int | None = None
    seed: int = 0
    data: RowFields = RowFields()

    def __post_init__(self) -> None:
        if isinstance(self.data, Mapping):
            object.__setattr__(self, "data", RowFields.of(self.data))


@dataclass(frozen=True)
class Item:
    """One question: where it stands, what the model is asked (likelihoods or writing), and what marking needs
    to know."""

    where: str
    ask: LoglikelihoodRequest | str
    gold: Any
    fields: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass(frozen=True)
class Metric:
    """A score's name, the mark that it is the mean of (`weight`: over the sum of this mark), and what is done
    with the mean."""

    name: str
    mark: str
    weight: str | None = None
    finish: Literal["mean", "exp", "percent"] = "mean"
    higher_is_better: bool = True

    def finished(self, means: Array) -> Array:
        if self.finish == "mean":
            return means
        return np.exp(means) if self.finish == "exp" else 100 * means

    def of(self, marks: Sequence[Marks], block: int = 1) -> Estimate:
        """The score of these items; `block` that follow one another are resampled together."""
        weights = [each[self.weight] for each in marks] if self.weight else None
        return estimate([each[self.mark] for each in marks], weights, self.finished, block=block)


@dataclass(frozen=True)
class CorpusMetric:
    """A score of all texts together, such as BLEU: (outputs, references of each) → its estimate."""

    name: str
    of_texts: Callable[[Sequence[str], Sequence[Sequence[str]]], Estimate]
    higher_is_better: bool = True


@dataclass(frozen=True)
class TaskItems:
    """What a task asks, what of its rows was left out and why, and the setting to be told with its scores."""

    items: list[Item]
    problems: list[str]
    setting: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """`questions` reads the rows; `mark` scores one answer (a score for each continuation, or the texts
    written)."""

    name: str
    questions: Callable[[Setting], TaskItems]
    mark: Callable[[Item, Any], Marks]
    measures: tuple[Metric, ...]
    corpus_measures: tuple[CorpusMetric, ...] = ()
    writing: Callable[[Setting], GenerationOptions] | None = None  # None: likelihoods are asked for
    check: Callable[[Setting], None] = lambda setting: None  # raises InputError before any work
    chance: Callable[[Item], float] | None = None  # how often a guess is right, where answers are chosen

    @property
    def main(self) -> str:
        """The score that comparisons and charts show."""
        return self.measures[0].name if self.measures else self.corpus_measures[0].name


def find_file(name: str, setting: Setting, file: str | Path) -> Path:
    """A task's file in the data folder. Raises InputError when it is not there."""
    if isinstance(file, Path):
        return file
    if setting.data_dir is None:
        raise InputError(f"{name}: give the folder that holds {file} with --data-dir")
    for path in (setting.data_dir / file, setting.data_dir / f"{file}.gz"):
        if path.exists():
            return path
    raise InputError(f"{name}: {setting.data_dir / file} is not there")


def limited(rows: list[Row], setting: Setting) -> list[Row]:
    """The first rows, as many as are asked for."""
    if setting.limit is not None and setting.limit < 1:
        raise InputError(f"limit: must be at least 1, not {setting.limit}")
    return rows[: setting.limit]


def scores_of(answer: Any) -> list[Score]:
    """Scores as they come from a model or from a journal's JSON."""
    return [each if isinstance(each, Score) else Score(*each) for each in answer]
