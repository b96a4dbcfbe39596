"""A file of prompts in, a file of JSON lines out: one for each prompt, in order, added as they are done, so
that a second start goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.data.csv_tables import SourceRow
from newleaf.data.row_files import FORMATS, file_lines, file_rows, format_of
from newleaf.errors import InputError
from newleaf.generate.text.completion import Completion

OURS = ("text", "end", "samples", "past_context")


@dataclass(frozen=True)
class Prompt:
    """One prompt, where it stands (`file:line`), and the other fields of its line."""

    text: str
    where: str
    fields: dict[str, Any]


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a .txt file (one a line, empty lines left out) or of rows with a field `prompt` (.jsonl,
    .csv, .tsv, …).

    Raises InputError with the line.
    """
    if format_of(path) == ".txt":
        prompts = [
            Prompt(line, f"{path}:{number}", {"prompt": line})
            for number, line in file_lines(path)
            if line.strip()
        ]
    elif format_of(path) in FORMATS:
        prompts = [_of_row(row) for row in file_rows(path)]
    else:
        raise InputError(
            f"{path}: prompts come from a .txt file (one a line) or from rows with a field prompt "
            f"({', '.join(FORMATS)})"
        )
    if not prompts:
        raise InputError(f"{path}: holds no prompt")
    return prompts


def _of_row(row: SourceRow) -> Prompt:
    if not isinstance(row.values.get("prompt"), str):
        raise InputError(f"{row.where}: has no field prompt with a text")
    taken = [name for name in OURS if name in row.values]
    if taken:
        raise InputError(f"{row.where}: has a field {taken[0]}, which the output needs for itself")
    return Prompt(row.values["prompt"], row.where, row.values)


def lines_done(out: Path, prompts: Sequence[Prompt]) -> tuple[int, int]:
    """How many lines an earlier start completed, and their bytes. Raises InputError for a file of other
    prompts."""
    if not out.exists():
        return 0, 0
    content = out.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    for number, line in enumerate(lines):
        if number >= len(prompts) or _prompt_of(line) != prompts[number].text:
            raise InputError(
                f"{out}:{number + 1}: is not what these prompts give; name another --out, or --overwrite to "
                f"begin again"
            )
    return len(lines), whole


def _prompt_of(line: bytes) -> Any:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields.get("prompt") if isinstance(fields, dict) else None


def add_lines(out: Path, prompts: Sequence[Prompt], texts: Sequence[Sequence[Completion]]) -> None:
    """Add a line for each prompt; they are on the disk when this returns."""
    lines = [
        json.dumps(prompt.fields | as_fields(each), ensure_ascii=False)
        for prompt, each in zip(prompts, texts, strict=True)
    ]
    with out.open("a", encoding="utf-8", newline="") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def as_fields(texts: Sequence[Completion]) -> dict[str, Any]:
    """`text` and `end` of one text, and whether it is `past_context`; `samples` of several."""
    rows = [
        {"text": each.text, "end": each.end} | ({"past_context": True} if each.past_context else {})
        for each in texts
    ]
    return dict(rows[0]) if len(rows) == 1 else {"samples": rows}


def batches(prompts: Sequence[Prompt], start: int, size: int) -> Iterator[tuple[int, Sequence[Prompt]]]:
    """Prompts from `start` on, some at a time, each time with the number of the first."""
    for first in range(start, len(prompts), size):
        yield first, prompts[first : first + size]
