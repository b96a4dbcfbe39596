"""What a SOURCE names: a file, a folder, a glob or a dataset on the Hub, resolved to things to read."""

import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from newleaf.data.compression import COMPRESSED_SUFFIXES
from newleaf.errors import InputError

SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
# read where it is named: in folders, such files are configurations and not lists of rows
ONLY_WHEN_NAMED = (".json",)
HUB_NAME = re.compile(r"hf:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^:]*))?(?::(?P<split>[^:]*))?")


@dataclass(frozen=True)
class FileSource:
    """A file to read; `format` is its suffix without .gz or .zst, `named` whether the user named it (and not
    a folder it is in)."""

    path: Path
    format: str
    size: int
    mtime_ns: int
    named: bool


@dataclass(frozen=True)
class HubSource:
    """A dataset on the Hugging Face Hub."""

    name: str
    config: str | None
    split: str

    def __str__(self) -> str:
        return f"hf:{self.name}:{self.config or ''}:{self.split}"


Source = FileSource | HubSource


@dataclass
class ResolvedSources:
    """The sources in order, and the files that were left aside for their suffix."""

    sources: list[Source] = field(default_factory=list)
    skipped_files: list[str] = field(default_factory=list)

    @property
    def total_bytes(self) -> int | None:
        """Bytes to read, as stored; None when a part of it comes from the Hub."""
        sizes = [source.size for source in self.sources if isinstance(source, FileSource)]
        return sum(sizes) if len(sizes) == len(self.sources) else None

    def cache_identity(self) -> list[object]:
        """What tells one state of the sources from another without reading them."""
        return [
            [str(s.path), s.size, s.mtime_ns] if isinstance(s, FileSource) else str(s) for s in self.sources
        ]


def resolve_sources(sources: Iterable[str | os.PathLike[str]]) -> ResolvedSources:
    """Finds what each SOURCE names, in the order given, folders and globs sorted; raises InputError when one
    names nothing."""
    found = ResolvedSources()
    for source in sources:
        text = os.fspath(source)
        if not text.strip():
            raise InputError(
                "the name of a source is empty; give a file, a folder, a glob or hf:owner/dataset"
            )
        if text.startswith("hf:"):
            found.sources.append(parse_hub_name(text))
        elif Path(text).is_dir():
            _add_many(found, text, _walk(Path(text)), ONLY_WHEN_NAMED)
        elif Path(text).exists():
            _add_named(found, Path(text))
        elif glob.has_magic(text):
            names = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (pathlib's glob takes no absolute pattern)
            _add_many(found, text, (path for path in map(Path, names) if path.is_file()))
        else:
            raise InputError(f"{text}: no such file; give a file, a folder, a glob or hf:owner/dataset")
    if not found.sources:
        raise InputError("no text was named; give a file, a folder, a glob or hf:owner/dataset")
    return found


def parse_hub_name(text: str) -> HubSource:
    """hf:owner/dataset[:config[:split]]; the split is train when left out."""
    match = HUB_NAME.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text}: not a dataset's name; write hf:owner/dataset, hf:owner/dataset:config or "
            f"hf:owner/dataset:config:split"
        )
    return HubSource(match["name"], match["config"] or None, match["split"] or "train")


def format_of(path: Path) -> str | None:
    """The suffix that says how to read a file, without .gz or .zst; None when it is none of the known
    ones."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path
    suffix = inner.suffix.lower()
    return suffix if suffix in SUFFIXES else None


def _add_named(found: ResolvedSources, path: Path) -> None:
    if format_of(path) is None:
        raise InputError(
            f"{path}: unknown kind of file; known are {' '.join(SUFFIXES)}, each also with .gz or .zst"
        )
    _add(found, path, named=True)


def _add_many(
    found: ResolvedSources, text: str, paths: Iterable[Path], without: Collection[str] = ()
) -> None:
    before = len(found.sources)
    for path in paths:
        if format_of(path) is None or format_of(path) in without:
            found.skipped_files.append(str(path))
        else:
            _add(found, path, named=False)
    if len(found.sources) == before:
        raise InputError(
            f"{text}: holds no file of a known kind; known are {' '.join(SUFFIXES)}, each also with .gz or "
            f".zst"
        )


def _add(found: ResolvedSources, path: Path, named: bool) -> None:
    kind = format_of(path)
    assert kind is not None
    status = path.stat()
    found.sources.append(FileSource(path.absolute(), kind, status.st_size, status.st_mtime_ns, named))


def _walk(folder: Path) -> Iterator[Path]:
    """Files in the order of their paths; what is hidden stays so."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)
        elif entry.is_file():
            yield entry
