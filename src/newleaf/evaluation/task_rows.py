"""Rows to be asked, with what is wrong in them: good rows come out, bad ones are named by file and line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from newleaf.data.row_files import file_rows
from newleaf.errors import InputError

Made = TypeVar("Made")


class BadRowError(Exception):
    """A row that cannot be asked; the text says why."""


@dataclass(frozen=True)
class Row:
    """One line of a file: its fields, and `where` it stands (file:line)."""

    where: str
    fields: Mapping[str, Any]

    def need(self, name: str) -> Any:
        """A field that must be there and not null. Raises BadRowError."""
        if self.fields.get(name) is None:
            raise BadRowError(f"has no field {name!r}; it has {', '.join(self.fields) or 'none'}")
        return self.fields[name]

    def text(self, name: str, empty: bool = False) -> str:
        """A field that is text, and (unless `empty`) not empty."""
        value = self.need(name)
        if not isinstance(value, str) or not (value or empty):
            raise BadRowError(
                f"{name} must be text{'' if empty else ' that is not empty'}, not {_short(value)}"
            )
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts, none of them empty."""
        value = self.need(name)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(each, str) and each for each in value)
        ):
            raise BadRowError(f"{name} must be a list of texts that are not empty, not {_short(value)}")
        return tuple(value)

    def one_of(self, name: str, count: int) -> int:
        """A field that says which of `count` is right; exactly one."""
        value = self.need(name)
        if isinstance(value, list):
            raise BadRowError(f"{name} names {len(value)} correct answers, and this task asks for one")
        if isinstance(value, str) and value.strip().isdigit():
            value = int(value)
        if type(value) is not int or not 0 <= value < count:
            raise BadRowError(
                f"{name} must be the number of the correct answer, 0 to {count - 1}, not {_short(value)}"
            )
        return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def first_rows(path: Path, count: int, encoding: str | None = None) -> list[Row]:
    """The first rows of a file that can be read."""
    return [
        Row(row.where, row.values) for row in islice(file_rows(path, lambda problem: None, encoding), count)
    ]


def read_rows(path: Path, encoding: str | None = None) -> tuple[list[Row], list[str]]:
    """The rows of a file (JSON lines, a JSON list, CSV, TSV, Parquet; packed or not), and what was left out
    and why.

    Raises InputError for a file that cannot be read or has no rows.
    """
    problems: list[str] = []
    rows = [
        Row(row.where, row.values)
        for row in file_rows(path, lambda problem: problems.append(problem.message_without_hint), encoding)
    ]
    if not rows:
        raise InputError(problems[0] if problems else f"{path}: is empty; one JSON object a line is expected")
    return rows, problems


def parse_each(rows: Sequence[Row], make: Callable[[Row], Made]) -> tuple[list[Made], list[str]]:
    """What `make` makes of each row, and the rows it refuses."""
    made: list[Made] = []
    problems: list[str] = []
    for row in rows:
        try:
            made.append(make(row))
        except BadRowError as error:
            problems.append(f"{row.where}: {error}")
    return made, problems
