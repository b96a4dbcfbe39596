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

MAX_RATE = 1.0  # what is above was written by nobody who trained a model with it


@dataclass(frozen=True)
class PretrainingRecord:
    """The optimizer, AdamW's peak rate (with Muon: the embedding's) and Muon's."""

    kind: Literal["muon", "adamw"]
    learning_rate: float
    matrix_learning_rate: float

    @classmethod
    def read(cls, values: object) -> PretrainingRecord | None:
        """From a section of a recipe or a note; None where it is no such thing."""
        if not isinstance(values, Mapping) or values.get("kind") not in ("muon", "adamw"):
            return None
        found = [values.get(name) for name in ("learning_rate", "matrix_learning_rate")]
        if not all(
            isinstance(rate, int | float) and math.isfinite(rate) and 0 < rate <= MAX_RATE for rate in found
        ):
            return None
        return cls(values["kind"], *map(float, found))  # type: ignore[arg-type]


def find_pretraining_record(path: Path, noted: Note) -> PretrainingRecord | None:
    """Of the model `path`: what its files have `noted`, or the run.yaml of the pretraining run that it lies
    in."""
    if (found := PretrainingRecord.read(noted.get(NOTE_KEY))) is not None or not path.is_dir():
        return found
    run = RunFolder(path.parent)
    if run.model != path or not run.is_run():
        return None
    try:
        values = run.read_config()
    except InputError:
        return None
    return PretrainingRecord.read(values.get("optimizer")) if "task" not in values else None


def notes(origin: PretrainingRecord | None) -> dict[str, Any]:
    """What a model folder says of it."""
    return {} if origin is None else {NOTE_KEY: vars(origin)}
