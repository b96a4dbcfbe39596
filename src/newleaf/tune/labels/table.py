"""Files of labelled rows: JSON lines, CSV, TSV, Parquet and datasets of the Hub, each row with the place it stands at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from newleaf.data.hub import hub_rows
from newleaf.data.rows import FORMATS, Bad, SourceRow, file_rows, format_of, stop_at
from newleaf.data.sources import HubSource, resolve
from newleaf.errors import InputError

Row = SourceRow


def read_table(sources: Iterable[str], bad: Bad = stop_at, encoding: str | None = None) -> Iterator[Row]:
    """Every row of the sources, in order; `bad` hears of each that is none. Raises InputError for a file that cannot be read."""
    for source in sources:
        path = Path(source)
        if format_of(path) in (".tsv", ".json") and not source.startswith("hf:"):
            if not path.is_file():
                raise InputError(f"{source}: no such file")
            yield from file_rows(path, bad, encoding)
            continue
        for found in resolve([source]).sources:
            if isinstance(found, HubSource):
                yield from (Row(f"{found}: row {number}", row) for number, row in enumerate(hub_rows(found), 1))
            elif found.format in FORMATS:
                yield from file_rows(found.path, bad, encoding)
            elif found.named:
                raise InputError(
                    f"{found.path}: rows with labels come as .jsonl, .csv, .tsv, .parquet or hf:owner/dataset, not {found.format}"
                )
