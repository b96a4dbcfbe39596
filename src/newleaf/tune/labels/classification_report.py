"""The report of a classifier: report.json, a table for people and confusion.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.format_amounts import counted
from newleaf.measure.classification import label_scores, multi_label_scores
from newleaf.storage.atomic_write import write_atomically, write_json, write_text
from newleaf.storage.classifier_folder import Head

MAX_LABELS_SHOWN = 12  # labels of a confusion table in a terminal
REPORT, TABLE, PICTURE = "report.json", "report.txt", "confusion.png"


def figures(
    probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], head: Head
) -> dict[str, float]:
    """The scores that each validation has."""
    if head.multi_label:
        return multi_label_scores(probabilities, truth)
    found = label_scores(probabilities, truth)
    if head.shape == "choice":
        return {"accuracy": found.accuracy, "calibration_error": found.calibration_error}
    return {
        "accuracy": found.accuracy,
        "macro_f1": found.macro_f1,
        "matthews": found.matthews,
        "calibration_error": found.calibration_error,
    }


def write_report(
    folder: Path, split: str, probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64],
    head: Head, baselines: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:  # fmt: skip
    """Write all of it into a run's folder; returns what goes to summary.json."""
    scores = {name: round(value, 4) for name, value in figures(probabilities, truth, head).items()}
    values: dict[str, Any] = {"rows": split, "n": len(truth)} | scores | {"baselines": dict(baselines)}
    if not head.multi_label and head.shape != "choice":
        table = label_scores(probabilities, truth).confusion
        names = [str(label) for label in head.labels]
        values |= {"labels": names, "by_label": by_label(names, table), "confusion": table.tolist()}
        with write_atomically(folder / PICTURE) as aside:
            _picture(names, table).savefig(aside, format="png", dpi=120)
    write_json(folder / REPORT, values)
    write_text(folder / TABLE, "\n".join(report_lines(values)) + "\n")
    return {"report": {"rows": split, "n": len(truth)} | scores, "baselines": dict(baselines)}


def report_lines(values: Mapping[str, Any], own: bool = True) -> list[str]:
    """The report as lines: the scores beside the baselines', and who was taken for whom.

    Without the model's `own` scores if they stand elsewhere.
    """
    names = [
        name
        for name in ("accuracy", "macro_f1", "micro_f1", "matthews", "calibration_error")
        if name in values
    ]
    rows = [[counted(values["n"], f"{values['rows']} row"), *names]]
    for who, scores in (({"this model": values} if own else {}) | values["baselines"]).items():
        rows.append([who, *(f"{scores[name]:.4f}" if name in scores else "" for name in names)])
    lines = aligned(rows) if len(rows) > 1 else []
    confused = confusion_lines(values.get("labels") or [], values.get("confusion") or [])
    return [*lines, *([""] if lines and confused else []), *confused]


def confusion_lines(labels: Sequence[str], table: Sequence[Sequence[int]]) -> list[str]:
    """Who was taken for whom, a line for each label; nothing where there are too many to read."""
    if not 0 < len(labels) <= MAX_LABELS_SHOWN:
        return []
    return aligned(
        [
            ["is \\ taken for", *labels],
            *([name, *map(str, row)] for name, row in zip(labels, table, strict=True)),
        ]
    )


def by_label(names: Sequence[str], table: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each label, from confusion [L, L]."""
    found = {}
    for number, name in enumerate(names):
        right, is_, given = (
            float(table[number, number]),
            float(table[number].sum()),
            float(table[:, number].sum()),
        )
        precision, recall = right / given if given else 0.0, right / is_ if is_ else 0.0
        f1 = 2 * right / (is_ + given) if is_ + given else 0.0
        found[name] = {
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "f1": round(f1, 4),
            "n": int(is_),
        }
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                f"{row[0]:<{widths[0]}}",
                *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def _picture(names: Sequence[str], table: npt.NDArray[np.int64]) -> Any:
    from matplotlib.figure import Figure

    side = min(14.0, 3.2 + 0.5 * len(names))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    shares = table / np.maximum(1, table.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the row")
    ticks = range(len(names))
    axes.set_xticks(
        ticks, names, rotation=45 if len(names) > 3 else 0, ha="right" if len(names) > 3 else "center"
    )
    axes.set_yticks(ticks, names)
    axes.set(xlabel="taken for", ylabel="is", title="Confusion")
    for row in ticks if len(names) <= 20 else ():
        for column in ticks:
            colour = "white" if shares[row, column] > 0.6 else "black"
            axes.text(
                column, row, str(table[row, column]), ha="center", va="center", color=colour, fontsize=8
            )
    return figure
