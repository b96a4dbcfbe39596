"""What an evaluation found, for people and programs: a table, results.json, report.md, results.csv and a
chart."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.evaluation.published import published_for
from newleaf.evaluation.result import Evaluation, TaskResult
from newleaf.evaluation.statistics import MIN_ITEMS, Difference, Estimate
from newleaf.storage.atomic_write import write_atomically, write_json, write_text
from newleaf.tune.labels.classification_report import confusion_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

LEFT_OUT_SHOWN = 5
FRACTIONS = (
    "acc",
    "macro_f1",
    "micro_f1",
    "acc_norm",
    "exact_match",
    "flexible_match",
    "pass@",
    "f1",
    "rouge",
    "consistency",
    "repetition",
    "distinct",
)


def write_report(found: Evaluation, folder: Path) -> None:
    """results.json, report.md, results.csv and results.png, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", found.as_json())
    write_text(folder / "report.md", markdown(found))
    write_text(folder / "results.csv", as_csv(found))
    figure = chart(found)
    if figure is not None:
        with write_atomically(folder / "results.png") as path:
            figure.savefig(path, format="png", dpi=120)


def shown(name: str, value: float) -> str:
    """A score as people read it."""
    if name.startswith(FRACTIONS):
        return f"{100 * value:.1f} %"
    if name.endswith("bits_per_byte"):
        return f"{value:.4f}"
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"


def interval(name: str, estimate: Estimate) -> str:
    """The ends of a score's interval; nothing for what has none."""
    if estimate.low == estimate.high:
        return ""
    low, high = shown(name, estimate.low), shown(name, estimate.high)
    return f"{low.removesuffix(' %')} – {high}"


def rows(found: Evaluation) -> Iterator[tuple[TaskResult, str, str, Estimate]]:
    """Each score: its task, group (or nothing), name and estimate."""
    for task in found.tasks:
        for name, estimate in task.scores.items():
            yield task, "", name, estimate
        for group, scores in task.groups.items():
            for name, estimate in scores.items():
                yield task, group, name, estimate


def has_chance(found: Evaluation) -> bool:
    """Whether any score has a level that guessing reaches."""
    return any(task.chance for task in found.tasks)


def chance_of(task: TaskResult, group: str, name: str) -> str:
    """What guessing reaches of this score, as people read it; nothing where that is not known."""
    value = (task.group_chance.get(group, {}) if group else task.chance).get(name)
    return "" if value is None else shown(name, value)


def verdict(name: str, difference: Difference, a: str, b: str) -> str:
    """A difference in a sentence."""
    if name.startswith(FRACTIONS):
        size = f"{100 * difference.value:+.1f} points (95 %: {100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    else:
        size = f"{difference.value:+.4g} (95 %: {difference.low:+.4g} to {difference.high:+.4g})"
    split = (
        f"; only {a} is right on {difference.only_a} items, only {b} on {difference.only_b}"
        if difference.only_a is not None
        else ""
    )
    if difference.p is None:
        few = f"{difference.n:,} are too few to tell a difference from chance ({MIN_ITEMS} at least); give more text or rows"
        return f"{name} {difference.value:+.4g}: {few}"
    real = "is real" if difference.real else "may be chance"
    return f"{name} {size}: the difference {real} (p = {difference.p:.2g}, {difference.test}, {difference.n:,} items{split})"


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


def confusions(found: Evaluation) -> list[tuple[str, list[str]]]:
    """Of classifiers, which label was taken for which: a title and lines for each file."""
    tables = []
    for each in (found, found.against):
        for task in each.tasks if each is not None else ():
            lines = confusion_lines(task.extra.get("labels", ()), task.extra.get("confusion", ()))
            tables += [(f"{task.task}, {each.model if each else ''}", lines)] if lines else []
    return tables


def reference_rows(found: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """Published figures of the same tasks and settings below the model's own: model, task and shots, score,
    value, source."""
    lines = []
    for task in found.tasks:
        figures = published_for(task.task, task.setting, set(task.scores))
        for name in dict.fromkeys(figure.score for figure in figures):
            label = f"{task.task}, {task.setting.get('shots')} shots"
            lines.append(
                (found.model, label, name, shown(name, task.scores[name].value), f"here, {task.n:,} items")
            )
            lines += [
                (each.model, label, name, shown(name, each.value), each.source)
                for each in figures
                if each.score == name
            ]
    return lines


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


def remarks(found: Evaluation) -> list[str]:
    """Sentences under the table: differences, xz, what was left out."""
    lines = list(found.notes)
    other = found.against
    for task, scores in found.differences.items():
        lines += [
            f"{task}: {verdict(name, each, found.model, other.model if other else '')}"
            for name, each in scores.items()
        ]
    for result in found.tasks:
        if "xz_bits_per_byte" in result.extra:
            lines.append(
                f"{result.task}: xz -9e needs {result.extra['xz_bits_per_byte']:.4f} bits per byte, its "
                f"file's header aside"
            )
        for who, scores_of in result.extra.get("baselines", {}).items():
            said = ", ".join(f"{name} {shown(name, value)}" for name, value in scores_of.items())
            lines.append(f"{result.task}: {who} alone reaches {said}")
        lines += [f"left out: {each}" for each in result.left_out[:LEFT_OUT_SHOWN]]
        if len(result.left_out) > LEFT_OUT_SHOWN:
            lines.append(
                f"left out: {len(result.left_out) - LEFT_OUT_SHOWN:,} more rows of {result.task}; --json "
                f"and --out list them"
            )
    return lines


def markdown(found: Evaluation) -> str:
    """The report as Markdown."""
    lines = [f"# {found.model}" + (f" against {found.against.model}" if found.against else ""), ""]
    guessing = has_chance(found)
    lines += ["| task | n | score | value | 95 % interval |" + (" chance |" if guessing else "")]
    lines += ["|---|---:|---|---:|---:|" + ("---:|" if guessing else "")]
    for task, group, name, estimate in rows(found):
        label = f"{task.task}: {group}" if group else task.task
        count = estimate.n if group else task.n
        line = (
            f"| {label} | {count:,} | {name} | {shown(name, estimate.value)} | {interval(name, estimate)} |"
        )
        lines.append(line + (f" {chance_of(task, group, name)} |" if guessing else ""))
    for title, confused in confusions(found):
        lines += ["", f"{title}:", "", "```", *confused, "```"]
    lines += ["", *(f"- {line}" for line in remarks(found))]
    references = reference_rows(found)
    if references:
        lines += [
            "",
            "Beside published figures, which are of whole sets:",
            "",
            "| model | task | score | value | source |",
            "|---|---|---|---:|---|",
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in references]
    lines += ["", "Settings:", ""]
    lines += [
        f"- {task.task}: " + ", ".join(f"{name} {value}" for name, value in task.setting.items())
        for task in found.tasks
    ]
    lines += [
        "- model: " + ", ".join(f"{name} {value}" for name, value in found.about.items()),
        f"- newleaf {found.version}",
        "",
    ]
    return "\n".join(lines)


def as_csv(found: Evaluation) -> str:
    """One score a line, of both models where there are two."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "task", "group", "n", "score", "value", "stderr", "low", "high", "chance"])
    for each in (found, found.against):
        for task, group, name, estimate in rows(each) if each is not None else ():
            count = estimate.n if group else task.n
            chance = (task.group_chance.get(group, {}) if group else task.chance).get(name, "")
            writer.writerow(
                [
                    each.model if each else "",
                    task.task,
                    group,
                    count,
                    name,
                    *map(repr, _numbers(estimate)),
                    chance,
                ]
            )
    return out.getvalue()


def _numbers(estimate: Estimate) -> tuple[float, float, float, float]:
    return estimate.value, estimate.stderr, estimate.low, estimate.high


def chart(found: Evaluation) -> Any:
    """A bar for each score that is a share, with its interval, beside the other model's; None where there is
    no such score."""
    from matplotlib.figure import Figure

    models = [each for each in (found, found.against) if each is not None]
    labels = [
        (task.task, name)
        for task, group, name, estimate in rows(found)
        if not group and name.startswith(FRACTIONS) and estimate.n > 1
    ]
    if not labels:
        return None
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(labels) * len(models)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(models)
    for number, model in enumerate(models):
        scores = {(task.task, name): estimate for task, group, name, estimate in rows(model) if not group}
        known = [(place, scores[label]) for place, label in enumerate(labels) if label in scores]
        values = [100 * estimate.value for _, estimate in known]
        errors = [
            [100 * max(0.0, each.value - each.low) for _, each in known],
            [100 * max(0.0, each.high - each.value) for _, each in known],
        ]
        places = [place + number * height for place, _ in known]
        axes.barh(
            places,
            values,
            height,
            xerr=errors,
            label=model.model,
            color=("#1b6b3a", "#9ab8a0")[number],
            ecolor="#444444",
            capsize=2,
        )
    axes.set_yticks(
        [place + 0.4 - height / 2 for place in range(len(labels))],
        [f"{task} {name}" for task, name in labels],
    )
    axes.invert_yaxis()
    axes.set(xlabel="%, with 95 % intervals", xlim=(0, 100))
    axes.legend(frameon=False, fontsize="small")
    axes.grid(axis="x", alpha=0.2)
    return figure
