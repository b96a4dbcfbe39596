"""Which tasks rows fit, by their fields: said where a task was asked of rows that are for another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from newleaf.data.row_files import format_of
from newleaf.errors import InputError
from newleaf.storage.classifier_folder import Shape
from newleaf.tune.conversations.conversation_formats import SHAPES
from newleaf.tune.labels.fields import Wanted, find_fields
from newleaf.tune.labels.table import read_table

DOCUMENTS = (".txt", ".md", ".py")  # what holds text and no rows
PREFERENCES = ({"chosen", "rejected"}, {"input", "preferred_output", "non_preferred_output"})
ANSWERS = ("answer", "output")  # labels only where a row is no conversation
LABELS = (str, int, list)  # true and false are ints


def fitting_tasks(row: Mapping[str, Any]) -> list[str]:
    """The tasks whose data look like this row, the likeliest first."""
    if any(fields <= row.keys() for fields in PREFERENCES):
        return ["preference"]
    talk = any(shape.fits(row) for shape in SHAPES)
    labels = [shape for shape in ("choice", "pair", "similarity", "classify") if _labelled(shape, row, talk)]
    if "choice" in labels or "pair" in labels:
        labels = [name for name in labels if name != "classify" or "text" in row]
    return (
        (["chat"] if talk else [])
        + labels
        + (["text"] if isinstance(row.get("text"), str) and not labels else [])
    )


def suggestion(sources: Sequence[str], task: str | None = None) -> str:
    """For the end of an error: which task the first source fits, where that is another than `task`.

    Nothing where it is not known.
    """
    try:
        found = _tasks_of(sources)
    except (InputError, OSError, ImportError):
        return ""
    return f"; this data fits --task {' or '.join(found)}" if found and task not in found else ""


def _tasks_of(sources: Sequence[str]) -> list[str]:
    if not sources or sources[0].startswith(("hf:", "newleaf:")):
        return []
    if format_of(Path(sources[0])) in DOCUMENTS:
        return ["text"]
    return fitting_tasks(next(iter(read_table(sources[:1]))).values)


def _labelled(shape: str, row: Mapping[str, Any], talk: bool) -> bool:
    """Whether the fields of a row give texts and a label of this shape without being named."""
    assert shape in get_args(Shape)
    try:
        found = find_fields(shape, list(row), Wanted(), "")  # type: ignore[arg-type]
    except InputError:
        return False
    if talk and found.label in ANSWERS:
        return False
    return all(isinstance(row[name], str) for name in found.texts) and isinstance(row[found.label], LABELS)
