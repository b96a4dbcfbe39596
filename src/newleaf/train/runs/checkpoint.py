"""Checkpoints: what a resumed run needs, each in a folder of its own under state/, with checksums.

The newest few are kept.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.atomic_write import file_digest, remove_leftovers, replace_directory, write_json
from newleaf.storage.safetensors_file import write_safetensors
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.distributed.sharded_state import read_shards, write_shards
from newleaf.train.distributed.sharding import Replicated

TENSORS, VALUES, DIGESTS = "optimizer.safetensors", "state.json", "digests.json"
NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is whole: its step, and everything but the optimizer's tensors as JSON values."""

    step: int
    values: dict[str, Any]


class Checkpoints:
    """The checkpoints under `folder`, named step-00000120 and so on; `keep` of them stay.

    Several processes call everything together, and the first one writes; where the `layout` gives each a part
    of the tensors, each writes its own. Any number of them reads what any number wrote.
    """

    def __init__(self, folder: Path, keep: int = 2, layout: Replicated | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.layout = layout or Replicated(Ranks())

    def steps(self) -> list[int]:
        """Steps there is a checkpoint of, oldest first."""
        return sorted(
            int(path.name.removeprefix("step-"))
            for path in self.folder.glob("step-*")
            if NAME.fullmatch(path.name)
        )

    def save(
        self, step: int, tensors: dict[str, Tensor], values: dict[str, Any], drop_old: bool = True
    ) -> None:
        """Write one, whole or not at all; then the oldest go.

        Raises OSError, with every earlier checkpoint as it was.
        """
        first = self.layout.ranks.on_rank_zero
        if not self.layout.in_step:
            return first(
                lambda: self._write(
                    step, values, drop_old, lambda aside: write_safetensors(aside / TENSORS, tensors)
                )
            )
        parts = self._path(step).with_name(f".step-{step}.parts.tmp")
        try:
            write_shards(parts, tensors, self.layout)
            first(lambda: self._write(step, values, drop_old, lambda aside: _move(parts, aside)))
        finally:
            first(lambda: shutil.rmtree(parts, ignore_errors=True))

    def _write(self, step: int, values: dict[str, Any], drop_old: bool, fill: Callable[[Path], None]) -> None:
        with replace_directory(self._path(step)) as aside:
            fill(aside)
            write_json(aside / VALUES, values)
            write_json(aside / DIGESTS, {path.name: file_digest(path) for path in sorted(aside.iterdir())})
        if drop_old:
            self._trim()

    def trim(self) -> None:
        """Let the oldest go, but for `keep`."""
        self.layout.ranks.on_rank_zero(self._trim)

    def _trim(self) -> None:
        for old in self.steps()[: -self.keep]:
            self._remove(old)

    def newest(
        self, say: Callable[[str], None], good: Callable[[dict[str, Any]], bool] = lambda values: True
    ) -> Checkpoint | None:
        """The newest one that is whole and `good(values)`, or None when there is no checkpoint.

        Damaged ones are named to `say`.

        Those after it are removed, as the run takes their steps again. Raises InputError when all of them are
        damaged.
        """
        found = self.layout.ranks.on_rank_zero(lambda: self._newest(say, good))
        return Checkpoint(**found) if found is not None else None

    def tensors(self, step: int) -> dict[str, Tensor]:
        """The optimizer's tensors of a checkpoint that `newest` found, or what this process has of them."""
        path = self._path(step)
        if not (path / TENSORS).exists():
            return read_shards(path, self.layout)
        return {name: self.layout.cut(tensor) for name, tensor in load_file(path / TENSORS).items()}

    def _newest(
        self, say: Callable[[str], None], good: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any] | None:
        damage = ""
        for path in sorted(self.folder.glob("step-*")):
            if not NAME.fullmatch(path.name) or not path.is_dir():
                say(f"Warning: {path}: is no checkpoint, and is passed over.")
        for step in reversed(self.steps()):
            try:
                values = self._read(step)
            except (OSError, ValueError, RecursionError) as error:
                damage = f"{self._path(step)}: the checkpoint is damaged ({' '.join(str(error).split())})"
                say(f"Warning: {damage}; looking for the one before.")
                continue
            if good(values):
                for later in self.steps():
                    if later > step:
                        self._remove(later)
                return {"step": step, "values": values}
        if damage:
            raise InputError(f"{damage}, and there is none before it; start again with --overwrite")
        return None

    def sweep(self) -> None:
        """Remove what a killed process left half written."""
        if self.folder.exists():
            remove_leftovers(self.folder)

    def is_intact(self, step: int) -> bool:
        """Whether there is an undamaged checkpoint of this step."""
        return self.layout.ranks.on_rank_zero(lambda: self._is_whole(step))

    def _is_whole(self, step: int) -> bool:
        try:
            self._read(step)
        except (OSError, ValueError, RecursionError):
            return False
        return True

    def _read(self, step: int) -> dict[str, Any]:
        """Its values. Raises ValueError or OSError when any of its files is not what was written."""
        path = self._path(step)
        digests = json.loads((path / DIGESTS).read_text("utf-8"))
        if not isinstance(digests, dict) or VALUES not in digests or len(digests) < 2:
            raise ValueError(f"{DIGESTS} is not what was written")
        for name, wanted in digests.items():
            if Path(name).name != name or file_digest(path / name) != wanted:
                raise ValueError(f"{name} is not what was written")
        values = json.loads((path / VALUES).read_text("utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{VALUES} is not what was written")
        return values

    def _remove(self, step: int) -> None:
        """The name goes first, so that a kill on the way leaves no half checkpoint."""
        path = self._path(step)
        gone = path.with_name(f".{path.name}.removed.tmp")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _move(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)
