"""Files of labelled rows: JSON lines, JSON lists, CSV, TSV, Parquet and datasets of the Hub, each row with
the place it stands at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from newleaf.data.csv_tables import OnBadRow, SourceRow
from newleaf.data.hub_datasets import hub_rows
from newleaf.data.row_files import FORMATS, file_rows, raise_input_error
from newleaf.data.sources import HubSource, resolve_sources
from newleaf.errors import InputError

Row = SourceRow


def read_table(
    sources: Sequence[str], bad: OnBadRow = raise_input_error, encoding: str | None = None
) -> Iterator[Row]:
    """Every row of the sources, in order; `bad` hears of each that is none.

    Raises InputError for a file that cannot be read.
    """
    for found in resolve_sources(sources).sources if sources else ():
        if isinstance(found, HubSource):
            yield from (Row(f"{found}: row {number}", row) for number, row in enumerate(hub_rows(found), 1))
        elif found.format in FORMATS:
            yield from file_rows(found.path, bad, encoding)
        elif found.named:
            raise InputError(
                f"{found.path}: rows with labels come as {', '.join(FORMATS)} or hf:owner/dataset, not "
                f"{found.format}"
            )
