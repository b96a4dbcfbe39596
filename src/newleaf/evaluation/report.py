"""The files of a report: results.json, report.md, results.csv and a chart."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newleaf.evaluation.result import Evaluation
from newleaf.evaluation.statistics import Estimate
from newleaf.storage.atomic_write import write_atomically, write_json, write_text

if TYPE_CHECKING:
    pass
from newleaf.evaluation.report_content import (
    FRACTIONS,
    chance_of,
    confusions,
    has_chance,
    interval,
    reference_rows,
    remarks,
    rows,
    shown,
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
