"""Tables of text (CSV, TSV): rows of fields under the names that the first line gives, with line and column
of what is wrong."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from newleaf.data.bad_documents import BadDocumentError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CSV_FIELD_LIMIT = 2**31 - 1  # the largest that a C long holds on every system
MAX_CHARS_SHOWN = 40  # characters of a field in a message
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
OnBadRow = Callable[[BadDocumentError], None]


@dataclass(frozen=True)
class SourceRow:
    """A row's values by field, and where it stands: file:line, the line it begins at."""

    where: str
    values: Any  # a dictionary, unless a reader's `parse` takes other JSON


@dataclass(frozen=True)
class Table:
    """The names of the columns, in order, and the rows, which are read as they are asked for."""

    columns: tuple[str, ...]
    rows: Iterator[SourceRow]


def read_table(lines: Iterable[tuple[int, str]], name: str, kind: str, on_bad_row: OnBadRow) -> Table:
    """A table from numbered lines that still have their ends; `kind` is .csv or .tsv, and `on_bad_row` hears
    of each row that is none.

    CSV is read as Python's csv and pandas read it: quotes may hold delimiters and line ends, and outside of
    them "\\n", "\\r\\n" and a bare "\\r" end a row. In TSV a quote is a character like any other (IANA,
    text/tab-separated-values). Empty lines are no rows, and of several columns without a name none is a
    field. Raises BadDocumentError for a first line that does not name the columns.
    """
    feed = _NumberedLines(lines)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if kind == ".csv" else csv.QUOTE_NONE
    with _raised_csv_field_limit():
        reader = csv.reader(feed, delimiter=DELIMITERS[kind], strict=True, quoting=quoting)
        try:
            header = next((row for row in reader if row), [])
        except csv.Error as error:
            raise _invalid_row(f"{name}:{feed.begin or 1}", kind, error) from None
    columns = _columns(header, f"{name}:{feed.begin or 1}")
    return Table(
        tuple(each for each in columns if each is not None),
        _rows(reader, feed, columns, name, kind, on_bad_row),
    )


class _NumberedLines:
    """Lines as csv asks for them. `begin` is the number of the first one since it was set to None: where a
    row begins."""

    def __init__(self, lines: Iterable[tuple[int, str]]) -> None:
        self.begin: int | None = None
        self._parts = self._cut(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, text = next(self._parts)
        self.begin = number if self.begin is None else self.begin
        return text

    @staticmethod
    def _cut(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        more = 0  # lines that bare carriage returns have added
        for number, text in lines:
            parts = LINE.findall(text) if "\r" in text else [text]
            for place, part in enumerate(parts):
                yield number + more + place, part
            more += len(parts) - 1


def _rows(
    reader: Any,
    feed: _NumberedLines,
    columns: Sequence[str | None],
    name: str,
    kind: str,
    on_bad_row: OnBadRow,
) -> Iterator[SourceRow]:
    while True:
        feed.begin = None
        try:
            with _raised_csv_field_limit():
                values = next(reader, None)
        except csv.Error as error:
            on_bad_row(_invalid_row(f"{name}:{feed.begin}", kind, error))
            continue
        if values is None:
            return
        if not values:
            continue
        where = f"{name}:{feed.begin}"
        if len(values) != len(columns):
            on_bad_row(
                BadDocumentError("broken line", f"{where}: {_wrong_field_count(values, columns, kind)}")
            )
        else:
            yield SourceRow(
                where,
                {field: value for field, value in zip(columns, values, strict=True) if field is not None},
            )


def _columns(header: Sequence[str], where: str) -> list[str | None]:
    """The columns' names; None for those without, unless there is one alone."""
    seen: dict[str, int] = {}
    for place, field in enumerate(header, 1):
        if field and field in seen:
            raise BadDocumentError(
                "broken file",
                f"{where}: columns {seen[field]} and {place} have the same name, {_truncated(field)}",
            )
        seen[field] = place
    nameless = header.count("")
    if header and nameless == len(header):
        raise BadDocumentError("broken file", f"{where}: the first line names the columns, and it is empty")
    return [None if not field and nameless > 1 else field for field in header]


def _wrong_field_count(values: Sequence[str], columns: Sequence[str | None], kind: str) -> str:
    message = (
        f"has {len(values)} field{'' if len(values) == 1 else 's'}, and the first line names "
        f"{len(columns)} columns"
    )
    if len(values) < len(columns):
        missing = columns[len(values)]
        return (
            f"{message}: there is none for {_truncated(missing) if missing else f'column {len(values) + 1}'}"
        )
    advice = "; a text with commas stands in quotes" if kind == ".csv" else ""
    return f"{message}: field {len(columns) + 1}, {_truncated(values[len(columns)])}, is of no column{advice}"


def _truncated(text: str) -> str:
    return repr(text if len(text) <= MAX_CHARS_SHOWN else text[: MAX_CHARS_SHOWN - 1] + "…")


def _invalid_row(where: str, kind: str, error: csv.Error) -> BadDocumentError:
    what = "a quote is opened and never closed" if "unexpected end of data" in str(error) else str(error)
    return BadDocumentError("broken line", f"{where}: not valid {kind[1:].upper()} ({what})")


@contextmanager
def _raised_csv_field_limit() -> Iterator[None]:
    """csv's limit of 128 KB a field is global to Python: raised while reading, put back after."""
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
