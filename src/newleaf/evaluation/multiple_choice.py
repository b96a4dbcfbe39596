"""Multiple-choice tasks: the likeliest of several continuations is the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from newleaf.errors import InputError
from newleaf.evaluation.evaluated_model import LoglikelihoodRequest
from newleaf.evaluation.task import (
    Item,
    Marks,
    Metric,
    Setting,
    Task,
    TaskItems,
    find_file,
    limited,
    scores_of,
)
from newleaf.evaluation.task_rows import BadRowError, Row, parse_each, read_rows

ACC, ACC_NORM = Metric("acc", "acc"), Metric("acc_norm", "acc_norm")


@dataclass(frozen=True)
class Choice:
    """What a row of a multiple-choice task becomes: a prompt, choices that follow it after a space, which one
    is right; and a group."""

    prompt: str
    choices: tuple[str, ...]
    gold: int
    group: str = ""

    @property
    def as_example(self) -> str:
        """The row as an example for others."""
        return f"{self.prompt} {self.choices[self.gold]}\n\n"


@dataclass(frozen=True)
class ChoiceTask:
    """A multiple-choice task in words: its file, how a row is read, its examples' file, and a heading that
    may name the group."""

    name: str
    file: str
    read: Callable[[Row], Choice]
    normalised: bool = False  # also score by log-likelihood per character
    shots_file: str | None = None
    heading: Callable[[str], str] = lambda group: ""
    only: str | None = None  # one group

    def task(self, path: Path | None = None) -> Task:
        """With `path`, another file of the same form."""
        measures = (ACC, ACC_NORM) if self.normalised else (ACC,)
        return Task(
            self.name, lambda setting: self._questions(setting, path), _mark_choice, measures, chance=_chance
        )

    def _questions(self, setting: Setting, path: Path | None) -> TaskItems:
        shots = setting.shots or 0
        file = find_file(self.name, setting, path or self.file)
        rows, problems = read_rows(file, setting.data.encoding)
        examples = self._examples(shots, setting, file)
        if self.only is not None:
            rows = [row for row in rows if row.fields.get("subject") == self.only]
            if not rows:
                raise InputError(f"{self.name}: {file} has no rows of {self.only}")

        def item(row: Row) -> Item:
            choice = self.read(row)
            own = examples.get(choice.group, [])
            if len(own) < shots:
                raise BadRowError(
                    f"there are {len(own)} examples{f' of {choice.group}' if choice.group else ''}, fewer "
                    f"than {shots} shots"
                )
            prompt = self.heading(choice.group) + "".join(own[:shots]) + choice.prompt
            ask = LoglikelihoodRequest(prompt, tuple(f" {each}" for each in choice.choices))
            return Item(
                row.where, ask, choice.gold, {"lengths": [len(each) for each in choice.choices]}, choice.group
            )

        items, bad = parse_each(limited(rows, setting), item)
        return TaskItems(items, problems + bad, {"shots": shots, "file": str(file)})

    def _examples(self, shots: int, setting: Setting, file: Path) -> dict[str, list[str]]:
        if not shots:
            return {}
        if self.shots_file is None:
            raise InputError(f"shots: {self.name} is asked without examples")
        beside = Setting(data_dir=setting.data_dir or file.parent)
        rows, _ = read_rows(find_file(self.name, beside, self.shots_file), setting.data.encoding)
        found: dict[str, list[str]] = {}
        for choice in parse_each(rows, self.read)[0]:
            found.setdefault(choice.group, []).append(choice.as_example)
        return found


def _chance(item: Item) -> float:
    """One of so many choices, by chance."""
    return 1 / len(item.fields["lengths"])


def _mark_choice(item: Item, answer: Any) -> Marks:
    scores = np.array([score.logprob for score in scores_of(answer)])
    by_length = scores / np.array(item.fields["lengths"], float)
    return {"acc": float(scores.argmax() == item.gold), "acc_norm": float(by_length.argmax() == item.gold)}
