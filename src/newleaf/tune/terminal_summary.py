"""What a finished run of fine-tuning tells in a terminal: figures before and after, samples, and what to do
next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from newleaf.format_amounts import counted
from newleaf.text.terminal_text import printable
from newleaf.tune.labels.classification_report import REPORT, report_lines
from newleaf.tune.tuning_diagnosis import describe_score

SHOWN = 3  # samples
WIDTH = 100  # characters of each
NEXT = {
    "pair": 'newleaf classify {path} "a text" "another"',
    "similarity": 'newleaf classify {path} "a text" "another"',
    "choice": 'newleaf classify {path} "a text" "a continuation" "another"',
    "classify": 'newleaf classify {path} "a text"',
    "chat": "newleaf chat {path}",
    "preference": "newleaf chat {path}",
}


def summary_text(
    path: Path, config: Mapping[str, Any], summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]
) -> str:
    """All of it, as lines."""
    if not summary:
        return f"{path}: nothing was trained yet\n  begin anew      newleaf finetune --resume {path}"
    how = (
        f"{counted(summary['steps'], 'step')} and {counted(summary['tokens_seen'], 'token')} in "
        f"{summary['total_seconds']:.0f} s"
    )
    lines = [f"{path}: {config.get('task')}, {how}" + ("" if summary["finished"] else " (stopped early)")]
    lines += _table(summary, metrics)
    lines += _report(path)
    lines += _samples(metrics)
    lines += describe_score(path, config, summary, metrics)
    if not summary["finished"]:
        lines.append(f"  go on with it   newleaf finetune --resume {path}")
    use = NEXT.get(str(config.get("task")), "newleaf generate {path}").format(path=path)
    lines.append(f"  use it          {use}")
    return "\n".join(lines)


def _table(summary: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each figure of the validation before the first step and of the best checkpoint."""
    before = next((line for line in metrics if line["step"] == 0 and "val_windows" in line), {})
    names = [name for name in summary if name.startswith("val_")]
    rows = [("", "before", "after")] + [
        (name.removeprefix("val_"), _number(before.get(name)), _number(summary[name])) for name in names
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip() for row in rows
    ]
    if seen := summary.get("measured_on"):
        lines.append(
            f"  (both on the same {seen['rows']:,} of {seen['of']:,} held-out rows: the time allowed no more)"
        )
    return lines


def _report(path: Path) -> list[str]:
    """A classifier's report; its own scores only where they are of other rows than those that stand above."""
    try:
        values = json.loads((path / REPORT).read_text("utf-8"))
        found = report_lines(values, own=values["rows"] != "validation")
    # none, or one that somebody has changed
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return ["", *(f"  {line}".rstrip() for line in found), ""]


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) else ""


def _samples(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was written last, beside what the model wrote to the same prompt before the first step."""
    found = [line for line in metrics if "sample" in line]
    latest = max((line["step"] for line in found), default=0)
    first = {line["prompt"]: line["sample"] for line in found if line["step"] == 0}
    last = {line["prompt"]: line["sample"] for line in found if line["step"] == latest > 0}
    lines = []
    for prompt in list(last)[:SHOWN]:
        lines.append(f"  {_short(prompt) or '(from the beginning)'}")
        lines += [f"    before: {_short(first[prompt])}"] if prompt in first else []
        lines.append(f"    after:  {_short(last[prompt])}")
    return lines


def _short(text: str) -> str:
    line = " ".join(printable(text).split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
