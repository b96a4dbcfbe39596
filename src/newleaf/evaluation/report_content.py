"""What a report of an evaluation says, whatever it is written as: scores, intervals, remarks, references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from newleaf.evaluation.published_results import published_for
from newleaf.evaluation.result import Evaluation, TaskResult
from newleaf.evaluation.statistics import MIN_ITEMS, Difference, Estimate
from newleaf.tune.labels.classification_report import confusion_lines

if TYPE_CHECKING:
    pass

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
        size = (
            f"{100 * difference.value:+.1f} points (95 %: {100 * difference.low:+.1f} to "
            f"{100 * difference.high:+.1f})"
        )
    else:
        size = f"{difference.value:+.4g} (95 %: {difference.low:+.4g} to {difference.high:+.4g})"
    split = (
        f"; only {a} is right on {difference.only_a} items, only {b} on {difference.only_b}"
        if difference.only_a is not None
        else ""
    )
    if difference.p is None:
        few = (
            f"{difference.n:,} are too few to tell a difference from chance ({MIN_ITEMS} at least); "
            f"give more text or rows"
        )
        return f"{name} {difference.value:+.4g}: {few}"
    real = "is real" if difference.real else "may be chance"
    return (
        f"{name} {size}: the difference {real} (p = {difference.p:.2g}, {difference.test}, "
        f"{difference.n:,} items{split})"
    )


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
