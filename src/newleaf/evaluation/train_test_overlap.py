"""Whether a file that a run is scored on is one that it was trained on: by its path, by its bytes, by the
run's fingerprint of its text."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.data.corpus import prepare_text
from newleaf.data.data_config import DataConfig
from newleaf.data.sources import FileSource, resolve_sources
from newleaf.errors import InputError
from newleaf.storage.resolve_model import RUN_FILE
from newleaf.untrusted import parse_yaml, read_text

BASES = 4  # runs that a run was tuned from, one from the other
PREPARED = 100 << 20  # bytes of a file that is read as training would read it
BLOCK = 1 << 20


@dataclass(frozen=True)
class _Run:
    """What a run.yaml says of training: `name` as people called it, the section data, the sources, and how
    large the text was."""

    name: str
    data: Mapping[str, Any]
    source: tuple[str, ...]
    fingerprint: str
    text_bytes: int


def own_text_notes(model: str | Path, files: Sequence[str | Path]) -> list[str]:
    """A sentence for each file that the run, or one that it was tuned from, learned from; none where `model`
    is no run."""
    runs = list(_runs(Path(model)))
    notes = []
    for file in map(Path, files):
        run = next((run for run in runs if file.is_file() and _learned_from(run, file)), None)
        if run is not None:
            held = (
                ""
                if run.data.get("validation")
                else f", but for the {100 * _held_out(run):g} % that it held out"
            )
            notes.append(
                f"{file}: {run.name} was trained on this text{held}; its score here says how well it "
                f"remembers, and not what it does with "
                "text it has not met"
            )
    return notes


def _runs(path: Path) -> Iterator[_Run]:
    """The run that this is or stands in, and those it was tuned from."""
    for _ in range(BASES):
        folder = next((each for each in (path, path.parent) if (each / RUN_FILE).is_file()), None)
        if folder is None:
            return
        try:
            values = parse_yaml(folder / RUN_FILE, read_text(folder / RUN_FILE))
        except InputError:
            return
        if not isinstance(values, dict):
            return
        source, made = values.get("source") or (), values.get("record")
        made = made if isinstance(made, dict) else {}
        prints = made.get("fingerprints") if isinstance(made.get("fingerprints"), dict) else {}
        size = made.get("text_bytes")
        yield _Run(
            str(path),
            values["data"] if isinstance(values.get("data"), dict) else {},
            tuple(map(str, [source] if isinstance(source, str) else source)),
            str((prints or {}).get("text", "")),
            size if isinstance(size, int) else 0,
        )
        base = values.get("model")
        if not isinstance(base, str):
            return
        path = Path(base)


def _held_out(run: _Run) -> float:
    value = run.data.get("val_fraction")
    return float(value) if isinstance(value, int | float) else DataConfig().val_fraction


def _learned_from(run: _Run, file: Path) -> bool:
    gone = False
    for source in run.source:
        try:
            found = resolve_sources([source]).sources
        except InputError:
            gone = True
            continue
        for each in found:
            if isinstance(each, FileSource) and (
                each.path.resolve() == file.resolve() or _same_bytes(each.path, file)
            ):
                return True
    return gone and _same_text(run, file)


def _same_bytes(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.stat().st_size == other.stat().st_size and _digest(one) == _digest(other)
    return False


def _digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.digest()


def _same_text(run: _Run, file: Path) -> bool:
    """Whether the file, read as the run read its sources, which are no longer there, has the fingerprint that
    the run noted."""
    size = file.stat().st_size
    if not run.fingerprint or run.data.get("validation") or not run.text_bytes <= size <= PREPARED:
        return False
    known = {name: value for name, value in run.data.items() if name in DataConfig.__dataclass_fields__}
    with tempfile.TemporaryDirectory() as cache, contextlib.suppress(InputError, TypeError, ValueError):
        return prepare_text([file], DataConfig(**known), Path(cache)).fingerprint == run.fingerprint
    return False
