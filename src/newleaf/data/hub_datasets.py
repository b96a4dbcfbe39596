"""Datasets of the Hugging Face Hub, streamed row by row through the `datasets` package."""

from collections.abc import Iterator
from typing import Any

from newleaf.data.sources import HubSource
from newleaf.errors import InputError


def hub_rows(source: HubSource) -> Iterator[dict[str, Any]]:
    """The rows of a dataset's split, as they come; raises InputError without the package, without the
    network, or for a wrong name."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{source}: datasets of the Hub need the package datasets; run: pip install 'newleaf[data]'"
        ) from error
    rows = _guarded(
        source,
        lambda: iter(datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)),
    )
    end = object()
    while (row := _guarded(source, lambda: next(rows, end))) is not end:
        yield row


def _guarded(source: HubSource, step: Any) -> Any:
    try:
        return step()
    # connection, missing name, missing configuration: each library below has its own
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{source}: cannot be read from the Hub ({what[:300]}); check the name and the connection, or "
            f"give a file"
        ) from error
