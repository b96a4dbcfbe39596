"""Files of rows, for whoever reads some: JSON lines, JSON lists, CSV, TSV and Parquet, packed or not, in any
encoding.

A row that is bad is one line's problem: whoever reads decides whether it ends everything or is left out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.compression import COMPRESSED_SUFFIXES, decompressed_blocks, open_seekable
from newleaf.data.csv_tables import DELIMITERS, OnBadRow, SourceRow, read_table
from newleaf.data.encodings import utf8_blocks
from newleaf.data.text_decoding import decode_line, split_lines
from newleaf.errors import InputError
from newleaf.untrusted import json_error_text

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MAX_JSON_DEPTH = 100  # levels of JSON
SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
JSON_WHITESPACE = re.compile(r"[ \t\r\n]*")  # of JSON


def format_of(path: Path) -> str:
    """The suffix, without that of a packed file."""
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path).suffix.lower()


def raise_input_error(problem: BadDocumentError) -> None:
    """For readers that a bad row ends: raises it, without advice about options that they do not have."""
    raise InputError(problem.message_without_hint) from problem


def file_rows(
    path: Path,
    on_bad_row: OnBadRow = raise_input_error,
    encoding: str | None = None,
    parse: Callable[[str, str], Any] | None = None,
) -> Iterator[SourceRow]:
    """The rows of a file in one of FORMATS. `on_bad_row` hears of each row that is none; `parse` makes a row
    of a line of JSON and where it stands (parse_row by default). Raises InputError for a file that cannot be
    read."""
    parse = parse or parse_row
    kind = format_of(path)
    if kind not in FORMATS:
        raise InputError(
            f"{path}: rows come as {', '.join(FORMATS)}, not {kind or 'a file without a suffix'}"
        )
    try:
        if kind == ".jsonl":
            yield from _jsonl_rows(path, on_bad_row, encoding, parse)
        elif kind == ".json":
            yield from _json_list_rows(path, on_bad_row, encoding, parse)
        elif kind == ".parquet":
            yield from _parquet_rows(path)
        else:
            assert kind in DELIMITERS
            yield from read_table(
                _numbered_lines(path, on_bad_row, encoding), str(path), kind, on_bad_row
            ).rows
    except BadDocumentError as problem:  # of the whole file
        raise InputError(problem.message_without_hint) from problem


def file_lines(
    path: Path, on_bad_row: OnBadRow = raise_input_error, encoding: str | None = None
) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without line ends. Only "\\n" and "\\r\\n" end one: texts
    may hold other separators."""
    for number, text in _numbered_lines(path, on_bad_row, encoding):
        yield number, text.removesuffix("\n").removesuffix("\r")


def parse_row(text: str, where: str) -> dict[str, Any]:
    """One JSON object. Raises BadDocumentError for anything else, for nesting beyond DEEPEST, and for text
    that is no Unicode."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise BadDocumentError(
            "broken line",
            f"{where}: not a JSON object but {type(value).__name__}; each line is one JSON object",
        )
    return value


def parse_json(text: str, where: str) -> Any:
    """A JSON value within those bounds. Raises BadDocumentError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(where) from None
    except json.JSONDecodeError as error:
        what = f"{error.msg}, at column {error.colno}"
        raise BadDocumentError(
            "broken line", f"{where}: not valid JSON ({what}); each line is one JSON object"
        ) from error
    except ValueError as error:
        raise BadDocumentError("broken line", f"{where}: {json_error_text(error)}") from error
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _depth(value) > MAX_JSON_DEPTH:
        raise _too_deep(where)
    if SURROGATE_ESCAPE.search(text) and (place := _find_lone_surrogate(value)) is not None:
        raise BadDocumentError(
            "not UTF-8", f"{where}: {place} holds half of a surrogate pair, which is no text"
        )
    return value


def _numbered_lines(path: Path, on_bad_row: OnBadRow, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Lines with their ends, which belong to a table's field where quotes stand around them."""
    try:
        for line in split_lines(
            utf8_blocks(
                decompressed_blocks(path, _ignore_progress), str(path), encoding, _warn_encoding_detected
            )
        ):
            try:
                text = decode_line(line, str(path))
            except BadDocumentError as problem:
                on_bad_row(problem)
            else:
                yield line.number, text
    except BadDocumentError as problem:
        raise InputError(problem.message_without_hint) from problem


def _jsonl_rows(
    path: Path, on_bad_row: OnBadRow, encoding: str | None, parse: Callable[[str, str], Any]
) -> Iterator[SourceRow]:
    for number, text in file_lines(path, on_bad_row, encoding):
        where = f"{path}:{number}"
        if not text.strip():
            continue
        try:
            row = SourceRow(where, parse(text, where))
        except BadDocumentError as problem:
            on_bad_row(problem)
        else:
            yield row


def _json_list_rows(
    path: Path, on_bad_row: OnBadRow, encoding: str | None, parse: Callable[[str, str], Any]
) -> Iterator[SourceRow]:
    """The rows of one list. Where each ends is found first, so that what is wrong with it is named by its
    number."""
    text = "\n".join(line for _, line in file_lines(path, encoding=encoding))
    begin, number = _skip_whitespace(text, 0), 0
    if not text.startswith("[", begin):
        raise InputError(f"{path}: must be a list of rows; a file with one row a line is named .jsonl")
    try:
        for number, start, end in _list_item_spans(text, begin):
            where = f"{path} row {number}"
            try:
                row = SourceRow(where, parse(text[start:end], where))
            except BadDocumentError as problem:
                on_bad_row(problem)
            else:
                yield row
    except RecursionError:
        raise InputError(f"{path} row {number + 1}: nests more than {MAX_JSON_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{path} row {number + 1}: not valid JSON ({error.msg}: {place})") from None


def _list_item_spans(text: str, begin: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each value of the JSON list that begins there. Raises the decoder's errors."""
    # only the extent counts here
    decoder = json.JSONDecoder(parse_int=_discard_number, parse_float=_discard_number)
    at, number = _skip_whitespace(text, begin + 1), 0
    more = not text.startswith("]", at)
    while more:
        number += 1
        _, end = decoder.raw_decode(text, at)
        yield number, at, end
        at = _skip_whitespace(text, end)
        more = text.startswith(",", at)
        at = _skip_whitespace(text, at + 1) if more else at
    if not text.startswith("]", at):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if (after := _skip_whitespace(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, after)


def _skip_whitespace(text: str, at: int) -> int:
    found = JSON_WHITESPACE.match(text, at)
    return found.end() if found is not None else at


def _discard_number(digits: str) -> int:
    return 0


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            ".parquet files need the package pyarrow; run: pip install 'newleaf[data]'"
        ) from error
    try:
        with open_seekable(path, _ignore_progress) as file, parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield SourceRow(f"{path}: row {number}", values)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({str(error).partition(chr(10))[0]})"
        ) from None


def _warn_encoding_detected(name: str, encoding: str) -> None:
    logging.getLogger("newleaf").warning(
        f"{name}: not UTF-8, read as {encoding}, which is a guess; if it is wrong, convert the file to UTF-8"
    )


def _ignore_progress(at: int) -> None:
    """Nobody asks how far the reading is."""


def _too_deep(where: str) -> BadDocumentError:
    return BadDocumentError("broken line", f"{where}: nests more than {MAX_JSON_DEPTH} levels deep")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            return depth
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    return depth


def _find_lone_surrogate(value: Any, place: str = "the row") -> str | None:
    """The field in which a string is that no encoding has."""
    if isinstance(value, str):
        return place if any("\ud800" <= character <= "\udfff" for character in value) else None
    if isinstance(value, dict):
        pairs = [(f"field {name!r}" if place == "the row" else place, inner) for name, inner in value.items()]
        if (
            found := next((name for name in value if _find_lone_surrogate(name) is not None), None)
        ) is not None:
            return f"the name of a field, {found!r},"
    else:
        pairs = [(place, inner) for inner in value] if isinstance(value, list) else []
    return next(
        (found for where, inner in pairs if (found := _find_lone_surrogate(inner, where)) is not None), None
    )
