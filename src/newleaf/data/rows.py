"""Files of rows, for whoever reads some: JSON lines, JSON lists, CSV, TSV and Parquet, packed or not, in any encoding.

A row that is bad is one line's problem: whoever reads decides whether it ends everything or is left out.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from newleaf.data.compression import PACKED, blocks, seekable
from newleaf.data.decoding import line_text, lines
from newleaf.data.encodings import utf8_blocks
from newleaf.data.problems import BadDocumentError
from newleaf.errors import InputError

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
DEEPEST = 100  # levels of JSON
CSV_FIELD_LIMIT = 2**31 - 1  # the largest that a C long holds on every system
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
Bad = Callable[[BadDocumentError], None]


@dataclass(frozen=True)
class SourceRow:
    """A row's values by field, and where it stands: file:line."""

    where: str
    values: Any  # a dictionary, unless a reader's `parse` takes other JSON


def format_of(path: Path) -> str:
    """The suffix, without that of a packed file."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


def stop_at(problem: BadDocumentError) -> None:
    """For readers that a bad row ends: raises it, without advice about options that they do not have."""
    raise InputError(problem.plain) from problem


def file_rows(
    path: Path, bad: Bad = stop_at, encoding: str | None = None, parse: Callable[[str, str], Any] | None = None
) -> Iterator[SourceRow]:
    """The rows of a file in one of FORMATS. `bad` hears of each row that is none; `parse` makes a row of a line of JSON and where it
    stands (parse_row by default). Raises InputError for a file that cannot be read."""
    parse = parse or parse_row
    kind = format_of(path)
    if kind not in FORMATS:
        raise InputError(f"{path}: rows come as {', '.join(FORMATS)}, not {kind or 'a file without a suffix'}")
    try:
        if kind == ".jsonl":
            yield from _json_lines(path, bad, encoding, parse)
        elif kind == ".json":
            yield from _json_list(path, bad, encoding, parse)
        elif kind == ".parquet":
            yield from _parquet(path)
        else:
            yield from _delimited(path, bad, encoding, "," if kind == ".csv" else "\t")
    except BadDocumentError as problem:  # of the whole file
        raise InputError(problem.plain) from problem


def file_lines(path: Path, bad: Bad = stop_at, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without line ends. Only "\\n" and "\\r\\n" end one: texts may hold other separators."""
    for number, text in _whole_lines(path, bad, encoding):
        yield number, text.removesuffix("\n").removesuffix("\r")


def parse_row(text: str, where: str) -> dict[str, Any]:
    """One JSON object. Raises BadDocumentError for anything else, for nesting beyond DEEPEST, and for text that is no Unicode."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise BadDocumentError("broken line", f"{where}: not a JSON object but {type(value).__name__}; each line is one JSON object")
    return value


def parse_json(text: str, where: str) -> Any:
    """A JSON value within those bounds. Raises BadDocumentError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadDocumentError("broken line", f"{where}: not valid JSON ({what}); each line is one JSON object") from error
    if text.count("[") + text.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise _too_deep(where)
    if SURROGATE.search(text) and (place := _half_surrogate(value)) is not None:
        raise BadDocumentError("not UTF-8", f"{where}: {place} holds half of a surrogate pair, which is no text")
    return value


def _whole_lines(path: Path, bad: Bad, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Lines with their ends, which belong to a table's field where quotes stand around them."""
    try:
        for line in lines(utf8_blocks(blocks(path, _nobody), str(path), encoding, _tell_guess)):
            try:
                text = line_text(line, str(path))
            except BadDocumentError as problem:
                bad(problem)
            else:
                yield line.number, text
    except BadDocumentError as problem:
        raise InputError(problem.plain) from problem


def _json_lines(path: Path, bad: Bad, encoding: str | None, parse: Callable[[str, str], Any]) -> Iterator[SourceRow]:
    for number, text in file_lines(path, bad, encoding):
        where = f"{path}:{number}"
        if not text.strip():
            continue
        try:
            row = SourceRow(where, parse(text, where))
        except BadDocumentError as problem:
            bad(problem)
        else:
            yield row


def _json_list(path: Path, bad: Bad, encoding: str | None, parse: Callable[[str, str], Any]) -> Iterator[SourceRow]:
    text = "\n".join(line for _, line in file_lines(path, encoding=encoding))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({getattr(error, 'msg', error)})") from None
    if not isinstance(values, list):
        raise InputError(f"{path}: must be a list of rows; a file with one row a line is named .jsonl")
    for number, value in enumerate(values, 1):
        where = f"{path} row {number}"
        try:
            row = SourceRow(where, parse(json.dumps(value), where))
        except (BadDocumentError, RecursionError) as problem:
            bad(problem if isinstance(problem, BadDocumentError) else _too_deep(where))
        else:
            yield row


def _delimited(path: Path, bad: Bad, encoding: str | None, delimiter: str) -> Iterator[SourceRow]:
    """CSV with its quotes; in TSV a quote is a character like any other (IANA, text/tab-separated-values)."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)  # the limit of 128 KB a field is global to Python
    try:
        texts = (text for _, text in _whole_lines(path, bad, encoding))
        reader = csv.reader(texts, delimiter=delimiter, strict=True, quoting=quoting)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: two columns have the same name; the first line names the columns")
        while True:
            try:
                values = next(reader, None)
            except csv.Error as error:
                bad(BadDocumentError("broken line", f"{path}:{reader.line_num}: not valid {_name(delimiter)} ({error})"))
                continue
            if values is None:
                return
            where = f"{path}:{reader.line_num}"
            if values and len(values) != len(header):
                bad(BadDocumentError("broken line", f"{where}: has {len(values)} fields, and the first line names {len(header)}"))
            elif values:
                yield SourceRow(where, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}:1: not valid {_name(delimiter)} ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _name(delimiter: str) -> str:
    return "CSV" if delimiter == "," else "TSV"


def _parquet(path: Path) -> Iterator[SourceRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(".parquet files need the package pyarrow; run: pip install 'newleaf[data]'") from error
    try:
        with seekable(path, _nobody) as file, parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(f"{path}: row {number}", values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).partition(chr(10))[0]})") from None


def _tell_guess(name: str, encoding: str) -> None:
    logging.getLogger("newleaf").warning(
        f"{name}: not UTF-8, read as {encoding}, which is a guess; if it is wrong, convert the file to UTF-8"
    )


def _nobody(at: int) -> None:
    """Nobody asks how far the reading is."""


def _too_deep(where: str) -> BadDocumentError:
    return BadDocumentError("broken line", f"{where}: nests more than {DEEPEST} levels deep")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            return depth
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _half_surrogate(value: Any, place: str = "the row") -> str | None:
    """The field in which a string is that no encoding has."""
    if isinstance(value, str):
        return place if any("\ud800" <= character <= "\udfff" for character in value) else None
    if isinstance(value, dict):
        pairs = [(f"field {name!r}" if place == "the row" else place, inner) for name, inner in value.items()]
        if (found := next((name for name in value if _half_surrogate(name) is not None), None)) is not None:
            return f"the name of a field, {found!r},"
    else:
        pairs = [(place, inner) for inner in value] if isinstance(value, list) else []
    return next((found for where, inner in pairs if (found := _half_surrogate(inner, where)) is not None), None)
