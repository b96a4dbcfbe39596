"""Labelled rows as a classifier is asked them: its fields found or named, its labels in its own type, and the
rows left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.errors import InputError
from newleaf.evaluation.task import Setting
from newleaf.storage.classifier_folder import Head, Label, default_labels
from newleaf.tune.labels.fields import Fields, Wanted, find_fields, text_of
from newleaf.tune.labels.label_rows import ExampleReader, LabelledConfig
from newleaf.tune.labels.table import Row, read_table

# that a row of mere text would not have
LABEL_FIELDS = ("label", "labels", "gold_label", "sentiment", "class")


@dataclass(frozen=True)
class LabelledRow:
    """`truth` is the label's number, [L] of 0 and 1 with several, or a regression's number; `answers` as the
    file has it."""

    where: str
    texts: tuple[str, ...]
    answers: tuple[Any, ...]
    truth: int | float | npt.NDArray[np.int64]


def read_labelled(path: Path, head: Head, setting: Setting) -> tuple[list[LabelledRow], list[str], str]:
    """The rows that can be asked, what was left out and why, and the fields they were read by.

    Raises InputError where the fields are not clear, and where no row is left.
    """
    data, problems = setting.data, []
    config = LabelledConfig(data.text, data.second, data.choices, data.label, encoding=data.encoding)
    reader = ExampleReader(head.shape, config)
    known = labels_by_name(head)
    rows: list[LabelledRow] = []
    for row in read_table(
        [str(path)], lambda problem: problems.append(problem.message_without_hint), data.encoding
    ):
        if reader.fields is None:  # not a matter of one row
            wanted = Wanted(data.text, data.second, data.choices, data.label)
            reader.fields = find_fields(head.shape, list(row.values), wanted, row.where)
            reader.multi_label, reader.first = head.multi_label, row.where
        try:
            rows.append(
                _regression_row(row, reader.fields) if head.regression else _row(row, reader, head, known)
            )
        except InputError as error:
            problems.append(str(error))
        if len(rows) == setting.limit:
            break
    if not rows or reader.fields is None:
        raise InputError(problems[0] if problems else f"{path}: holds no labelled rows")
    return rows, problems, reader.fields.described()


def labels_by_name(head: Head) -> dict[Any, int]:
    """The labels' numbers by the labels, and by what tables write for them: text for numbers, true for True;
    and where nobody named a stock classifier's labels, by their numbers."""
    found: dict[Any, int] = {}
    for number, label in enumerate(head.labels):
        found[_key(label)] = number
        found.setdefault(_key(str(label)), number)
        if isinstance(label, bool):
            found.setdefault(_key(str(label).lower()), number)
    if head.labels == default_labels(len(head.labels)):
        for number in range(len(head.labels)):
            found.setdefault(_key(number), number)
            found.setdefault(_key(str(number)), number)
    return found


def _key(label: Label) -> tuple[str, Label]:
    """1 and True are one key of a dictionary, and two labels."""
    return type(label).__name__, label


def _row(row: Row, reader: ExampleReader, head: Head, known: Mapping[Any, int]) -> LabelledRow:
    reader.kind = None  # each row's type is compared with the model's labels, not with other rows
    example = reader.example(row)
    if head.shape == "choice":
        return LabelledRow(row.where, example.texts, example.answers, int(example.answers[0]))
    numbers = []
    for answer in example.answers:
        if _key(answer) not in known:
            shown = ", ".join(repr(label) for label in head.labels[:8])
            raise InputError(f"{row.where}: label {answer!r} is none of the model's ({shown})")
        numbers.append(known[_key(answer)])
    if not head.multi_label:
        return LabelledRow(row.where, example.texts, example.answers, numbers[0])
    truth = np.zeros(len(head.labels), dtype=np.int64)
    truth[numbers] = 1
    return LabelledRow(row.where, example.texts, example.answers, truth)


def _regression_row(row: Row, fields: Fields) -> LabelledRow:
    value = row.values.get(fields.label)
    try:
        number = float(str(value))
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{row.where}: the model answers with a number, and the label is {value!r}")
    return LabelledRow(
        row.where, tuple(text_of(row.values, name, row.where) for name in fields.texts), (number,), number
    )


def label_field(path: Path, encoding: str | None = None) -> str | None:
    """The field of the first row that holds a label, where the file is one of labelled rows."""
    for row in read_table([str(path)], lambda problem: None, encoding):
        named = {str(name).lower(): str(name) for name in row.values}
        return next((named[name] for name in LABEL_FIELDS if name in named and len(named) > 1), None)
    return None
