"""How a base was made: the optimizer of its pretraining and the peak rates, as a run or a model folder
records them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from newleaf.errors import InputError
from newleaf.storage.pretrained_note import NOTE_KEY, Note
from newleaf.train.runs.run_folder import RunFolder

MOST_RATE = 1.0  # what is above was written by nobody who trained a model with it


@dataclass(frozen=True)
class Origin:
    """The optimizer, AdamW's peak rate (with Muon: the embedding's) and Muon's."""

    kind: Literal["muon", "adamw"]
    learning_rate: float
    matrix_learning_rate: float

    @classmethod
    def read(cls, values: object) -> Origin | None:
        """From a section of a recipe or a note; None where it is no such thing."""
        if not isinstance(values, Mapping) or values.get("kind") not in ("muon", "adamw"):
            return None
        found = [values.get(name) for name in ("learning_rate", "matrix_learning_rate")]
        if not all(
            isinstance(rate, int | float) and math.isfinite(rate) and 0 < rate <= MOST_RATE for rate in found
        ):
            return None
        return cls(values["kind"], *map(float, found))  # type: ignore[arg-type]


def origin_of(path: Path, noted: Note) -> Origin | None:
    """Of the model `path`: what its files have `noted`, or the run.yaml of the pretraining run that it lies
    in."""
    if (found := Origin.read(noted.get(NOTE_KEY))) is not None or not path.is_dir():
        return found
    run = RunFolder(path.parent)
    if run.model != path or not run.is_run():
        return None
    try:
        values = run.read_config()
    except InputError:
        return None
    return Origin.read(values.get("optimizer")) if "task" not in values else None


def notes(origin: Origin | None) -> dict[str, Any]:
    """What a model folder says of it."""
    return {} if origin is None else {NOTE_KEY: vars(origin)}
