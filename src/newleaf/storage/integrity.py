"""Whether a model's or an adapter's folder can be read, every byte of its weights included."""

from __future__ import annotations

from pathlib import Path

from newleaf.errors import InputError
from newleaf.storage.adapter_folder import is_adapter, read_tensors
from newleaf.storage.model_folder import load_folder
from newleaf.storage.stored_weights import StoredWeights


def find_damage(folder: Path) -> str | None:
    """What is wrong with it, in words; None for a folder that is whole."""
    try:
        if is_adapter(folder):
            read_tensors(folder)
        else:
            load_folder(folder)
            stored = StoredWeights(folder)
            for name in stored:
                stored[name]
    except InputError as error:
        return str(error)
    except ValueError as error:
        return f"{folder}: {error}"
    return None
