"""Files of texts to be labelled: what a classifier is asked of each line or row, in order, and where nothing
stands to be judged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.csv_tables import SourceRow
from newleaf.data.row_files import FORMATS, file_lines, file_rows, format_of, parse_row, raise_input_error
from newleaf.errors import InputError
from newleaf.storage.classifier_folder import Shape
from newleaf.tune.labels.fields import Wanted, find_texts, text_of
from newleaf.tune.labels.label_rows import continuations
from newleaf.tune.labels.text_classifier import Question

TEXTS = "texts"  # a field of a row that holds all texts of one question


def read_questions(
    path: Path, shape: Shape, wanted: Wanted, encoding: str | None = None
) -> list[Question | None]:
    """One entry for each line of a text file or of JSON lines, and for each row of other files.

    None for one that is blank.

    Rows are read by the fields that tuning finds, labels left aside, or that `wanted` names; a field `texts`
    with a list holds a whole question. Raises InputError, with the line, for a row that is none.
    """
    if format_of(path) in FORMATS:
        reader = _Rows(shape, wanted)
        rows = (
            _of_lines(path, encoding) if format_of(path) == ".jsonl" else file_rows(path, encoding=encoding)
        )
        return [None if row is None else reader.question(row) for row in rows]
    if shape != "classify":
        raise InputError(
            f"{path}: this model takes several texts at once; give rows that name them ({', '.join(FORMATS)})"
        )
    if any((wanted.text, wanted.second, wanted.choices)):
        raise InputError(f"data.text: {path} has no fields; each line is a text")
    return [line if line.strip() else None for _, line in file_lines(path, encoding=encoding)]


def _of_lines(path: Path, encoding: str | None) -> Iterator[SourceRow | None]:
    """JSON lines with their blank lines."""
    for number, line in file_lines(path, encoding=encoding):
        where = f"{path}:{number}"
        try:
            yield SourceRow(where, parse_row(line, where)) if line.strip() else None
        except BadDocumentError as problem:
            raise_input_error(problem)


class _Rows:
    """Rows of one kind: the first one settles the fields."""

    def __init__(self, shape: Shape, wanted: Wanted) -> None:
        self.shape, self.wanted = shape, wanted
        self.fields: tuple[str, ...] | None = None

    def question(self, row: SourceRow) -> Question | None:
        values: dict[str, Any] = row.values
        named = any((self.wanted.text, self.wanted.second, self.wanted.choices))
        if not named and isinstance(values.get(TEXTS), list):
            texts = values[TEXTS]
            if not texts or not all(isinstance(text, str) for text in texts):
                raise InputError(f"{row.where}: field {TEXTS!r} must be a list of texts")
            return list(texts)
        if self.fields is None:
            self.fields = find_texts(self.shape, list(values), self.wanted, row.where)
        first, *others = self.fields
        if self.shape == "choice":
            return (
                None
                if _blank(values, first)
                else [text_of(values, first, row.where), *continuations(values, others, row.where)]
            )
        if any(_blank(values, name) for name in self.fields):
            return None
        texts = [text_of(values, name, row.where) for name in self.fields]
        return texts[0] if self.shape == "classify" else texts


def _blank(values: dict[str, Any], name: str) -> bool:
    value = values.get(name)
    return isinstance(value, str) and not value.strip()
