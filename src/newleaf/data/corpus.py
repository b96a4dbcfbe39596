"""Sources to a corpus: read once, cleaned, stored to the cache and split into training and validation
text."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from newleaf.data.bad_documents import BadDocumentError, Problems
from newleaf.data.cleaning import Cleaner
from newleaf.data.corpus_cache import cache_key, cached_directory, default_cache_directory
from newleaf.data.data_config import BYTE_LIMIT_FIELDS, DataConfig
from newleaf.data.documents import Progress, documents
from newleaf.data.sources import ResolvedSources, resolve_sources
from newleaf.data.text_store import TextRange, TextStoreWriter, with_fingerprint
from newleaf.data.validation_split import split_validation
from newleaf.errors import InputError

VERSION = 4  # of the cache's layout and of what reading means: raise it when either changes
OPTIONS_OUTSIDE_CACHE_KEY = (*BYTE_LIMIT_FIELDS, "layout", "stride", "document_mask")
NAMES_SHOWN = 20
PROGRESS_EVERY_DOCUMENTS = 1000

SourceNames = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True)
class Corpus:
    """Text ready for a tokenizer. `report` says what was read, changed and left out; `from_cache` whether an
    earlier run read it."""

    train: TextRange
    validation: TextRange
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
    found = resolve_sources(names)
    validation_sources = resolve_sources(config.validation_sources) if config.validation_sources else None
    options = {name: value for name, value in asdict(config).items() if name not in OPTIONS_OUTSIDE_CACHE_KEY}
    key = cache_key(
        VERSION,
        found.cache_identity(),
        validation_sources.cache_identity() if validation_sources else None,
        options,
    )
    folder = (cache or default_cache_directory()) / "text" / key

    def build(building: Path) -> dict[str, Any]:
        return _build_corpus(building, found, validation_sources, config, on_progress)

    meta, from_cache = cached_directory(folder, build)
    train, validation = (
        TextRange.from_json(folder, meta["train"]),
        TextRange.from_json(folder, meta["validation"]),
    )
    return Corpus(
        train, validation, meta["report"], cache_key(train.fingerprint, validation.fingerprint), from_cache
    )


def _build_corpus(
    folder: Path,
    found: ResolvedSources,
    validation_sources: ResolvedSources | None,
    config: DataConfig,
    on_progress: Progress | None,
) -> dict[str, Any]:
    text, report = _write_text_store(folder / "text.bin", found, config, config.limit, on_progress)
    if validation_sources is None:
        train, validation = split_validation(text, config.val_fraction, folder)
    else:
        train = text
        validation, report["validation"] = _write_text_store(
            folder / "validation.bin", validation_sources, config, config.validation_limit, on_progress
        )
    train, validation = with_fingerprint(train), with_fingerprint(validation)
    for name, part in (("train", train), ("held_out", validation)):
        report[name] = {"documents": part.n_documents, "characters": part.n_chars, "bytes": part.n_bytes}
    return {"train": train.to_json(), "validation": validation.to_json(), "report": report}


def _write_text_store(
    path: Path, found: ResolvedSources, config: DataConfig, limit: int | None, on_progress: Progress | None
) -> tuple[TextRange, dict[str, Any]]:
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
                and text_store.n_documents % PROGRESS_EVERY_DOCUMENTS == 0
            ):
                on_progress("reading", text_store.n_bytes, None)
            if text_store.n_documents == limit:
                break
    if text_store.n_documents == 0:
        raise InputError(
            f"{_first_source_name(found)}: holds no text{_skip_reasons(problems, cleaner)}; give files that "
            f"do"
        )
    return text_store.text(), _report(found, problems, cleaner)


def _report(found: ResolvedSources, problems: Problems, cleaner: Cleaner) -> dict[str, Any]:
    return {
        "sources": len(found.sources),
        "unknown_suffix": {"count": len(found.skipped_files), "first": found.skipped_files[:NAMES_SHOWN]},
        "skipped": dict(problems.skipped),
        "first_skipped": problems.first,
        "encodings": problems.encodings,
        "cleaning": dict(cleaner.counts),
    }


def _first_source_name(found: ResolvedSources) -> str:
    first = found.sources[0]
    name = str(getattr(first, "path", first))
    return name if len(found.sources) == 1 else f"{name} and {len(found.sources) - 1} more"


def _skip_reasons(problems: Problems, cleaner: Cleaner) -> str:
    reasons = [f"{count} {reason}" for reason, count in (problems.skipped + cleaner.counts).items()]
    return f" ({', '.join(reasons)})" if reasons else ""
