"""How a model was pretrained, as its files note it for whoever tunes it: handed on by everything that writes
the model anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# under `newleaf` in config.json, and before each field of it in a GGUF file's metadata
NOTE_KEY = "pretrained"
LEARNING_RATES = ("learning_rate", "matrix_learning_rate")
MAX_NAME_CHARS = 32  # characters of an optimizer's name

# {"pretrained": {"kind": …, "learning_rate": …, "matrix_learning_rate": …}}, or nothing
Note = dict[str, Any]


def note_of(values: Mapping[str, Any]) -> Note:
    """Of a config.json."""
    own = values.get("newleaf")
    return _checked(own.get(NOTE_KEY)) if isinstance(own, Mapping) else {}


def note_in_gguf(metadata: Mapping[str, Any]) -> Note:
    """Of a GGUF file, whose numbers have seven digits."""
    found = {name: metadata.get(f"newleaf.{NOTE_KEY}.{name}") for name in ("kind", *LEARNING_RATES)}
    return _checked(
        {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in found.items()}
    )


def gguf_fields(note: Note) -> dict[str, Any]:
    """The note as metadata, which other programs pass over."""
    return {f"newleaf.{NOTE_KEY}.{name}": value for name, value in note.get(NOTE_KEY, {}).items()}


def _checked(values: object) -> Note:
    """The note without anything that is none: a stranger wrote it."""
    if (
        not isinstance(values, Mapping)
        or not isinstance(values.get("kind"), str)
        or len(values["kind"]) > MAX_NAME_CHARS
    ):
        return {}
    rates = {name: values.get(name) for name in LEARNING_RATES}
    if not all(type(rate) in (int, float) and math.isfinite(rate) for rate in rates.values()):  # type: ignore[arg-type]
        return {}
    return {NOTE_KEY: {"kind": values["kind"]} | {name: float(rate) for name, rate in rates.items()}}  # type: ignore[arg-type]
