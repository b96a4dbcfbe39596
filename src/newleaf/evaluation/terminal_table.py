"""The table of scores that `newleaf evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from newleaf.evaluation.result import Evaluation

if TYPE_CHECKING:
    from rich.console import RenderableType
from newleaf.evaluation.report_content import (
    chance_of,
    confusions,
    has_chance,
    interval,
    reference_rows,
    remarks,
    rows,
    shown,
)


def table(found: Evaluation) -> RenderableType:
    """The table for a terminal, with what follows from it below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    other = found.against
    columns = Table(
        title=Text(found.model if other is None else f"{found.model} against {other.model}"),
        title_justify="left",
    )
    for heading in ("task", "n", "score"):
        columns.add_column(heading, justify="right" if heading == "n" else "left")
    columns.add_column("value", justify="right")
    columns.add_column("95 % interval", justify="right")
    guessing = has_chance(found)
    if guessing:
        columns.add_column("chance", justify="right")
    if other is not None:
        columns.add_column(other.model, justify="right")
    last = None
    for task, group, name, estimate in rows(found):
        label = f"{task.task}: {group}" if group else task.task
        cells = [
            "" if label == last else label,
            "" if label == last else f"{estimate.n if group else task.n:,}",
            name,
        ]
        cells += [shown(name, estimate.value), interval(name, estimate)]
        cells += [chance_of(task, group, name)] if guessing else []
        if other is not None:
            same = next(
                (
                    each
                    for each in rows(other)
                    if (each[0].task, each[1], each[2]) == (task.task, group, name)
                ),
                None,
            )
            cells.append(shown(name, same[3].value) if same is not None else "")
        columns.add_row(*map(Text, cells))
        last = label
    confused = [Text("\n".join(["", title, *lines, ""])) for title, lines in confusions(found)]
    return Group(columns, *confused, *(Text(line) for line in remarks(found)), *_references(found))


def _references(found: Evaluation) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    lines = reference_rows(found)
    if not lines:
        return
    sources = list(dict.fromkeys(line[4] for line in lines if not line[4].startswith("here")))
    columns = Table(title=Text("beside published figures, which are of whole sets"), title_justify="left")
    for heading in ("model", "task", "score", "value", "source"):
        columns.add_column(heading, justify="right" if heading == "value" else "left")
    for *cells, source in lines:
        columns.add_row(
            *map(Text, cells), Text(f"[{sources.index(source) + 1}]" if source in sources else source)
        )
    yield columns
    yield from (Text(f"[{number}] {source}") for number, source in enumerate(sources, 1))
