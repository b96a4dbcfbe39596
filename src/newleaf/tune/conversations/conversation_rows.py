"""Rows of conversations and pairs: JSON lines, JSON lists, tables, datasets of the Hub, and the conversations
that newleaf makes itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.hub_datasets import hub_rows
from newleaf.data.row_files import FORMATS, file_rows, parse_json
from newleaf.data.sources import HubSource, resolve_sources
from newleaf.data.stdlib_chat import HELD_OUT, NAME, stdlib_chat
from newleaf.errors import InputError

OWN = "newleaf:"


@dataclass(frozen=True)
class Row:
    """A row at its place (file:line), not parsed yet: `read` raises InputError, with the place, where it is
    none."""

    where: str
    read: Callable[[], Any]


def read_rows(sources: Iterable[str], encoding: str | None = None) -> Iterator[Row]:
    """Every row. Raises InputError for a file that cannot be read."""
    for source in sources:
        yield from _own(source) if source.startswith(OWN) else _resolved(source, encoding)


def _own(source: str) -> Iterator[Row]:
    if source not in (NAME, HELD_OUT):
        raise InputError(f"{source}: newleaf makes no such conversations; it has {NAME} and {HELD_OUT}")
    for row in stdlib_chat(held_out=source == HELD_OUT):
        yield Row(f"{source}: {row['about']}", partial(_same, row))


def _resolved(source: str, encoding: str | None) -> Iterator[Row]:
    for found in resolve_sources([source]).sources:
        if isinstance(found, HubSource):
            for number, row in enumerate(hub_rows(found)):
                yield Row(f"{found} row {number + 1}", partial(_same, row))
        elif found.format in FORMATS:
            yield from _of_file(found.path, encoding)
        elif found.named:
            raise InputError(
                f"{found.path}: this task reads {', '.join(FORMATS)} and hf:owner/dataset, not {found.format}"
            )


def _of_file(path: Path, encoding: str | None) -> Iterator[Row]:
    """The rows of a file in order, those that are none too: reading them raises what is wrong."""
    bad: deque[BadDocumentError] = deque()
    for row in file_rows(path, bad.append, encoding, parse_json):
        while bad:
            yield Row(str(path), partial(_raise, bad.popleft()))
        yield Row(row.where, partial(_same, row.values))
    while bad:
        yield Row(str(path), partial(_raise, bad.popleft()))


def _raise(problem: BadDocumentError) -> Any:
    raise problem


def _same(row: Any) -> Any:
    return row
