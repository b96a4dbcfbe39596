"""Rows of conversations and pairs: JSON lines, JSON lists, datasets of the Hub, and the conversations that newleaf makes itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from newleaf.data.compression import PACKED, blocks
from newleaf.data.decoding import Line, line_text, lines
from newleaf.data.hub import hub_rows
from newleaf.data.problems import BadDocumentError
from newleaf.data.sources import HubSource, resolve
from newleaf.data.stdlib_chat import HELD_OUT, NAME, stdlib_chat
from newleaf.errors import InputError

OWN = "newleaf:"


@dataclass(frozen=True)
class Row:
    """A row at its place (file:line), not parsed yet: `read` raises InputError, with the place, where it is none."""

    where: str
    read: Callable[[], Any]


def read_rows(sources: Iterable[str]) -> Iterator[Row]:
    """Every row. Raises InputError for a file that cannot be read."""
    for source in sources:
        if source.startswith(OWN):
            yield from _own(source)
        elif _is_json(Path(source)):
            yield from _json(Path(source))
        else:
            yield from _resolved(source)


def _own(source: str) -> Iterator[Row]:
    if source not in (NAME, HELD_OUT):
        raise InputError(f"{source}: newleaf makes no such conversations; it has {NAME} and {HELD_OUT}")
    for row in stdlib_chat(held_out=source == HELD_OUT):
        yield Row(f"{source}: {row['about']}", partial(_same, row))


def _resolved(source: str) -> Iterator[Row]:
    for found in resolve([source]).sources:
        if isinstance(found, HubSource):
            for number, row in enumerate(hub_rows(found)):
                yield Row(f"{found} row {number + 1}", partial(_same, row))
        elif found.format == ".jsonl":
            yield from _json_lines(found.path)
        elif found.named:
            raise InputError(f"{found.path}: this task reads .jsonl, .json and hf:owner/dataset, not {found.format}")


def _json_lines(path: Path) -> Iterator[Row]:
    for line in lines(blocks(path, lambda at: None)):
        if line.data.strip():
            yield Row(f"{path}:{line.number}", partial(_parsed_line, line, path))


def _parsed_line(line: Line, path: Path) -> Any:
    where = f"{path}:{line.number}"
    return _parsed(line_text(line, where), where)


def _same(row: Any) -> Any:
    return row


def _json(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    data = b"".join(blocks(path, lambda at: None))
    try:
        values = _parsed(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise BadDocumentError("not UTF-8", f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None
    if not isinstance(values, list):
        raise InputError(f"{path}: must be a list of rows; a file with one row a line is named .jsonl")
    for number, row in enumerate(values):
        yield Row(f"{path} row {number + 1}", partial(_same, row))


def _is_json(path: Path) -> bool:
    return (path.with_suffix("") if path.suffix in PACKED else path).suffix == ".json"


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise BadDocumentError("broken line", f"{where}: not valid JSON ({what})") from None
