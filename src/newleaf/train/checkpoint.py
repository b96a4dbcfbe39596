"""Checkpoints: what a resumed run needs, each in a folder of its own under state/, with checksums; the newest few are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.files import digest, replace_directory, sweep, write_json, write_tensors

TENSORS, VALUES, DIGESTS = "optimizer.safetensors", "state.json", "digests.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: the optimizer's tensors by name, and everything else as JSON values."""

    step: int
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Checkpoints:
    """The checkpoints under `folder`, named step-00000120 and so on; `keep` of them stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps there is a checkpoint of, oldest first."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def save(self, step: int, tensors: dict[str, Tensor], values: dict[str, Any], drop_old: bool = True) -> None:
        """Write one, whole or not at all; then the oldest go. Raises OSError, with every earlier checkpoint as it was."""
        with replace_directory(self._path(step)) as aside:
            write_tensors(aside / TENSORS, tensors)
            write_json(aside / VALUES, values)
            write_json(aside / DIGESTS, {name: digest(aside / name) for name in (TENSORS, VALUES)})
        if drop_old:
            self.trim()

    def trim(self) -> None:
        """Let the oldest go, but for `keep`."""
        for old in self.steps()[: -self.keep]:
            self._remove(old)

    def newest(self, say: Callable[[str], None], good: Callable[[dict[str, Any]], bool] = lambda values: True) -> Checkpoint | None:
        """The newest one that is whole and `good(values)`, or None when there is no checkpoint; damaged ones are named to `say`.

        Those after it are removed, as the run takes their steps again. Raises InputError when all of them are damaged.
        """
        damage = ""
        for step in reversed(self.steps()):
            try:
                found = self._read(step)
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                damage = f"{self._path(step)}: the checkpoint is damaged ({' '.join(str(error).split())})"
                say(f"Warning: {damage}; looking for the one before.")
                continue
            if good(found.values):
                for later in self.steps():
                    if later > step:
                        self._remove(later)
                return found
        if damage:
            raise InputError(f"{damage}, and there is none before it; start again with --overwrite")
        return None

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        if self.folder.exists():
            sweep(self.folder)

    def _read(self, step: int) -> Checkpoint:
        path = self._path(step)
        for name, wanted in json.loads((path / DIGESTS).read_text("utf-8")).items():
            if digest(path / name) != wanted:
                raise ValueError(f"{name} is not what was written")
        return Checkpoint(step, load_file(path / TENSORS), json.loads((path / VALUES).read_text("utf-8")))

    def _remove(self, step: int) -> None:
        """The name goes first, so that a kill on the way leaves no half checkpoint."""
        path = self._path(step)
        gone = path.with_name(f".{path.name}.removed.tmp")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"
