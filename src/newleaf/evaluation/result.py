"""What an evaluation found: scores with their uncertainty, by task and by group, and what was left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from newleaf.evaluation.statistics import Difference, Estimate
from newleaf.evaluation.task import Marks, Metric

Progress = Callable[[str, int, int], None]  # what is being done, so many of so many


@dataclass(frozen=True)
class TaskResult:
    """One task's scores. `wheres` and `marks` are the items that were scored, in order, for comparing models
    one by one."""

    task: str
    scores: dict[str, Estimate]
    measures: tuple[Metric, ...] = ()
    groups: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    setting: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    wheres: Sequence[str] = ()
    marks: Sequence[Marks] = ()
    # what belongs to this task alone: documents, speeds, sizes
    extra: dict[str, Any] = field(default_factory=dict)
    asked: int = 0  # answered now; the others were known from before
    chance: dict[str, float] = field(default_factory=dict)  # what guessing reaches, by score
    group_chance: dict[str, dict[str, float]] = field(default_factory=dict)
    parts: Sequence[Sequence[Marks]] = ()  # of a text, each document's windows, in the order of `wheres`

    @property
    def n(self) -> int:
        """Items that were scored."""
        return len(self.marks) or max((estimate.n for estimate in self.scores.values()), default=0)

    def as_json(self) -> dict[str, Any]:
        """As in results.json."""
        found: dict[str, Any] = {"n": self.n, **_flat(self.scores), **_chances(self.chance)}
        if self.groups:
            found["groups"] = {
                name: {
                    "n": max(each.n for each in scores.values()),
                    **_flat(scores),
                    **_chances(self.group_chance.get(name, {})),
                }
                for name, scores in self.groups.items()
            }
        return (
            found
            | self.extra
            | {"left_out": list(self.left_out), "setting": self.setting, "seconds": round(self.seconds, 3)}
        )


def _chances(chance: dict[str, float]) -> dict[str, float]:
    return {f"{name}_chance": value for name, value in chance.items()}


def _flat(scores: dict[str, Estimate]) -> dict[str, Any]:
    found: dict[str, Any] = {name: each.value for name, each in scores.items()}
    for name, each in scores.items():
        if each.n > 1:
            found |= {f"{name}_stderr": each.stderr, f"{name}_low": each.low, f"{name}_high": each.high}
    return found


@dataclass(frozen=True)
class Evaluation:
    """Everything that was found about a model, and about another on the same tasks where there is one."""

    model: str
    about: dict[str, Any]
    tasks: list[TaskResult]
    against: Evaluation | None = None
    # task → score → model minus the other
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    version: str = ""

    def as_json(self) -> dict[str, Any]:
        """results.json."""
        found: dict[str, Any] = {
            "model": self.model,
            "tasks": {task.task: task.as_json() for task in self.tasks},
        }
        if self.against is not None:
            found["against"] = {
                "model": self.against.model,
                "tasks": {task.task: task.as_json() for task in self.against.tasks},
            }
            found["differences"] = {
                task: {
                    name: {key: value for key, value in vars(each).items() if value is not None}
                    | {"real": each.real}
                    for name, each in scores.items()
                }
                for task, scores in self.differences.items()
            }
        return found | {"notes": list(self.notes), "about": self.about, "version": self.version}
