"""Local files in the place of the Hub data sets that lm-evaluation-harness asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets

from newleaf.errors import InputError

FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
READERS = {".jsonl": "json", ".gz": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


class _SplitsWithEmpty(datasets.DatasetDict):  # type: ignore[misc]
    """Splits that have no file are empty: the harness looks into a training split even where it takes no
    example from it."""

    def __missing__(self, name: str) -> Any:
        return next(iter(self.values())).select([])


@contextlib.contextmanager
def local_data(folder: Path | None) -> Iterator[None]:
    """Inside, what the harness asks of the Hub comes from files: owner/name as FOLDER/name/SPLIT.jsonl (or
    FOLDER/owner/name/…), with a configuration FOLDER/name/CONFIG/SPLIT.jsonl; .json, .csv and .parquet files
    too. Without a folder, the Hub and its cache are asked."""
    if folder is None:
        yield
        return
    theirs = datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        files = _files(folder, path, name)
        split = options.get("split")
        kind = READERS[next(iter(files.values())).suffix]
        found = theirs(kind, data_files={each: str(file) for each, file in files.items()})
        return found[split] if split else _SplitsWithEmpty(found)

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = theirs


def _files(folder: Path, path: str, name: str | None) -> dict[str, Path]:
    """Each split's file. Raises InputError that says where they were looked for."""
    tried = []
    for part in (path, path.rpartition("/")[2]):
        place = (
            folder / part / name
            if name and name != "default" and (folder / part / name).is_dir()
            else folder / part
        )
        tried.append(str(place))
        if place.is_dir():
            found = {
                each.name.split(".")[0]: each for each in sorted(place.iterdir()) if each.name.endswith(FILES)
            }
            if found:
                return found
    raise InputError(
        f"lm_eval: the data set {path}{f', {name}' if name else ''} is not under --data-dir; looked for "
        f"{' and '.join(tried)}"
    )
