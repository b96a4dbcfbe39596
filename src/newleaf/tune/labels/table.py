"""Files of labelled rows: JSON lines, CSV, TSV, Parquet and datasets of the Hub, each row with the place it stands at."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.data.compression import PACKED, blocks
from newleaf.data.decoding import line_text, lines
from newleaf.data.documents import CSV_FIELD_LIMIT
from newleaf.data.hub import hub_rows
from newleaf.data.sources import HubSource, resolve
from newleaf.errors import InputError

TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Row:
    """A row's values by field, and where it stands: file:line."""

    where: str
    values: dict[str, Any]


def read_table(sources: Iterable[str]) -> Iterator[Row]:
    """Every row of the sources, in order. Raises InputError with file and line for what cannot be read."""
    for source in sources:
        path = Path(source)
        if _suffix(path) == ".tsv":
            if not path.is_file():
                raise InputError(f"{source}: no such file")
            yield from _delimited(path, "\t")
            continue
        for found in resolve([source]).sources:
            if isinstance(found, HubSource):
                yield from (Row(f"{found}: row {number}", row) for number, row in enumerate(hub_rows(found), 1))
            elif found.format == ".jsonl":
                yield from _json_lines(found.path)
            elif found.format in TABLES:
                yield from _delimited(found.path, TABLES[found.format])
            elif found.format == ".parquet":
                yield from _parquet(found.path)
            elif found.named:
                raise InputError(
                    f"{found.path}: rows with labels come as .jsonl, .csv, .tsv, .parquet or hf:owner/dataset, not {found.format}"
                )


def _suffix(path: Path) -> str:
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower()


def _json_lines(path: Path) -> Iterator[Row]:
    for line in lines(blocks(path, lambda at: None)):
        where = f"{path}:{line.number}"
        text = line_text(line, str(path))
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{where}: not valid JSON ({what}); each line is one JSON object") from None
        if not isinstance(values, dict):
            raise InputError(f"{where}: not a JSON object but {type(values).__name__}; each line is one JSON object")
        yield Row(where, values)


def _delimited(path: Path, delimiter: str) -> Iterator[Row]:
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)  # the limit of 128 KB a field is global to Python
    try:
        texts = (line_text(line, str(path)) for line in lines(blocks(path, lambda at: None)))
        reader = csv.reader(texts, delimiter=delimiter, strict=True)
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: two columns have the same name; the first line names the columns")
        for values in reader:
            where = f"{path}:{reader.line_num}"
            if values and len(values) != len(header):
                raise InputError(f"{where}: has {len(values)} fields, and the first line names {len(header)}")
            if values:
                yield Row(where, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise InputError(f"{path}: not valid {'CSV' if delimiter == ',' else 'TSV'} ({error})") from None
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(".parquet files need the package pyarrow; run: pip install 'newleaf[data]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            number = 0
            for batch in table.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", values)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).partition(chr(10))[0]})") from None
