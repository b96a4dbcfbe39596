"""Sources to a corpus: read once, cleaned, stored to the cache and split into training and validation
text."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from newleaf.data.cleaning import Cleaner
from newleaf.data.corpus_cache import cached, default_cache, key_of
from newleaf.data.data_config import TAKEN, DataConfig
from newleaf.data.documents import Progress, documents
from newleaf.data.problems import BadDocumentError, Problems
from newleaf.data.sources import Resolved, resolve
from newleaf.data.text_store import (
    TextFile,
    TextStoreWriter,
    split_characters,
    split_documents,
    split_each,
    with_fingerprint,
)
from newleaf.errors import InputError

VERSION = 4  # of the cache's layout and of what reading means: raise it when either changes
NOT_ABOUT_TEXT = (*TAKEN, "layout", "stride", "document_mask")
LONG = 10_000  # bytes of a document whose end is a text of its own
FEW = 100  # documents of which the last need not be like the others
NAMES_SHOWN = 20
TOLD_EVERY = 1000

SourceNames = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Corpus:
    """Text ready for a tokenizer. `report` says what was read, changed and left out; `from_cache` whether an
    earlier run read it."""

    train: TextFile
    validation: TextFile
    report: dict[str, Any]
    fingerprint: str
    from_cache: bool = False


def prepare_text(
    sources: SourceNames, config: DataConfig, cache: Path | None = None, on_progress: Progress | None = None
) -> Corpus:
    """Reads the sources in one pass and bounded memory, whatever their size, and splits them into train and
    validation.

    The same files (path, size, time of change) under the same options come from the cache at once; a dataset
    of the Hub goes by its name alone. `on_progress(stage, done, total)` counts bytes; `total` is None where
    it is not known. Raises InputError.
    """
    names = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found = resolve(names)
    separate = resolve(config.validation_sources) if config.validation_sources else None
    options = {name: value for name, value in asdict(config).items() if name not in NOT_ABOUT_TEXT}
    key = key_of(VERSION, found.identity(), separate.identity() if separate else None, options)
    folder = (cache or default_cache()) / "text" / key

    def build(fresh: Path) -> dict[str, Any]:
        return _build(fresh, found, separate, config, on_progress)

    meta, from_cache = cached(folder, build)
    train, validation = TextFile.opened(folder, meta["train"]), TextFile.opened(folder, meta["validation"])
    return Corpus(
        train, validation, meta["report"], key_of(train.fingerprint, validation.fingerprint), from_cache
    )


def _build(
    folder: Path, found: Resolved, separate: Resolved | None, config: DataConfig, on_progress: Progress | None
) -> dict[str, Any]:
    text, report = _text_store(folder / "text.bin", found, config, config.limit, on_progress)
    if separate is None:
        train, validation = _split(text, config.val_fraction, folder)
    else:
        train = text
        validation, report["validation"] = _text_store(
            folder / "validation.bin", separate, config, config.validation_limit, on_progress
        )
    train, validation = with_fingerprint(train), with_fingerprint(validation)
    for name, part in (("train", train), ("held_out", validation)):
        report[name] = {"documents": part.n_documents, "characters": part.n_chars, "bytes": part.n_bytes}
    return {"train": train.described(), "validation": validation.described(), "report": report}


def _text_store(
    path: Path, found: Resolved, config: DataConfig, limit: int | None, on_progress: Progress | None
) -> tuple[TextFile, dict[str, Any]]:
    problems, cleaner = Problems(config.on_error), Cleaner(config)
    with TextStoreWriter(path) as text_store:
        for document in documents(found, config, problems, on_progress):
            try:
                pieces = cleaner.clean(document.pieces)
                if pieces is not None and not text_store.add(pieces):
                    problems.skipped["empty"] += 1
            except BadDocumentError as problem:
                problems.bad(problem)
            if (
                on_progress is not None
                and found.total_bytes is None
                and text_store.n_documents % TOLD_EVERY == 0
            ):
                on_progress("reading", text_store.n_bytes, None)
            if text_store.n_documents == limit:
                break
    if text_store.n_documents == 0:
        raise InputError(f"{_shown(found)}: holds no text{_why(problems, cleaner)}; give files that do")
    return text_store.text(), _report(found, problems, cleaner)


def _split(text: TextFile, val_fraction: float, folder: Path) -> tuple[TextFile, TextFile]:
    """One document: its end, to the character, so that the first int((1 - f) n) characters train. Several:
    the last ones, whole; but the end of each where that would hold back a far larger or smaller share, as
    with two books."""
    if text.n_documents == 1:
        n_first = int((1 - val_fraction) * text.n_chars)
        if n_first == 0:
            raise InputError(
                f"the text has {text.n_chars} character(s), too few to hold some back for validation; give "
                f"a longer text"
            )
        return split_characters(text, n_first)
    train, validation = split_documents(
        text, min(max(1, round(val_fraction * text.n_documents)), text.n_documents - 1)
    )
    share = validation.n_bytes / text.n_bytes
    books = text.n_documents < FEW and text.n_bytes > LONG * text.n_documents
    if books and not val_fraction / 2 <= share <= 2 * val_fraction:
        return split_each(text, val_fraction, folder / "train.bin", folder / "validation.bin") or (
            train,
            validation,
        )
    return train, validation


def _report(found: Resolved, problems: Problems, cleaner: Cleaner) -> dict[str, Any]:
    return {
        "sources": len(found.sources),
        "unknown_suffix": {"count": len(found.passed_over), "first": found.passed_over[:NAMES_SHOWN]},
        "skipped": dict(problems.skipped),
        "first_skipped": problems.first,
        "encodings": problems.encodings,
        "cleaning": dict(cleaner.counts),
    }


def _shown(found: Resolved) -> str:
    first = found.sources[0]
    name = str(getattr(first, "path", first))
    return name if len(found.sources) == 1 else f"{name} and {len(found.sources) - 1} more"


def _why(problems: Problems, cleaner: Cleaner) -> str:
    reasons = [f"{count} {reason}" for reason, count in (problems.skipped + cleaner.counts).items()]
    return f" ({', '.join(reasons)})" if reasons else ""
