"""Which files of a folder hold the weights: one whole file, or the shards that an index names."""

from __future__ import annotations

from pathlib import Path

from newleaf.errors import InputError
from newleaf.untrusted import read_object

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # what is taken first, first

MAX_NAME_CHARS = 200  # what file systems hold is 255 bytes


def index_name(whole: str) -> str:
    """The index of shards that stands where a whole file could."""
    return f"{whole}.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, as stock transformers chooses: safetensors before .bin, one whole file
    before an index.

    Raises InputError for a file that is missing, an index that is none, or a name in it that leads out of the
    folder.
    """
    for whole in WEIGHT_FILES:
        if (folder / whole).exists():
            return [folder / whole]
        if (index := folder / index_name(whole)).exists():
            return [_existing_shard(folder, name) for name in shard_names(index)]
    raise InputError(f"{folder}: {WEIGHT_FILES[0]} is missing, and so is every other form of weights")


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names. Raises InputError when it is none, or names one outside its
    folder."""
    try:
        names = sorted({str(name) for name in read_object(index)["weight_map"].values()})
    except (InputError, KeyError, AttributeError):
        raise InputError(f"{index}: is not an index of shards") from None
    for name in names:
        if Path(name).name != name or name in ("", ".", "..") or "\0" in name:
            raise InputError(f"{index}: {name[:100]!r} points outside the folder")
    return names


def _existing_shard(folder: Path, name: str) -> Path:
    if len(name) > MAX_NAME_CHARS or not (folder / name).exists():
        raise InputError(f"{folder}: shard {_quoted(name)} is missing")
    return folder / name


def _quoted(name: str) -> str:
    """A file's name in an error: as it is where it is plain."""
    return name if name.isprintable() and len(name) <= 100 else repr(name[:100])
