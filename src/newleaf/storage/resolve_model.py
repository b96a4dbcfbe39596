"""What a person calls a model, a run, a folder, a GGUF file or a name of the Hub, as a path on this disk."""

from __future__ import annotations

from pathlib import Path

from newleaf.errors import InputError
from newleaf.storage.hub import local_folder

RUN_FILE, RUN_MODEL = "run.yaml", "model"


def is_gguf(path: str | Path) -> bool:
    return Path(path).suffix == ".gguf"


def resolve_model(name: str | Path, files: tuple[str, ...]) -> Path:
    """The GGUF file, or the model folder; a run's is the one inside. Of a name of the Hub `files` are
    fetched, see `local_folder`.

    Raises InputError when there is no such thing, or the run has no model yet.
    """
    if is_gguf(name):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file")
        return Path(name)
    folder = local_folder(name, files)
    if not (folder / RUN_FILE).exists():
        return folder
    if not (folder / RUN_MODEL).exists():
        raise InputError(f"{name}: this run has no model yet; it stopped before its first validation")
    return folder / RUN_MODEL
