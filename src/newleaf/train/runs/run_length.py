"""How long a run is: its schedule, from the length it was begun with and those it was extended by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.recipe import build, plain, seconds
from newleaf.train.objective.schedule import (
    ClockSchedule,
    ExtendedSchedule,
    ReplaySchedule,
    Schedule,
    ScheduleShape,
    StepSchedule,
)
from newleaf.train.objective.train_config import LENGTHS, Extension, TrainConfig
from newleaf.train.runs.metrics_file import read_lines


@dataclass(frozen=True)
class StepSize:
    """What makes a number of steps of tokens and epochs: windows and tokens in a step, windows in an
    epoch."""

    windows: int
    tokens: float
    windows_per_epoch: int

    def steps(self, length: TrainConfig | Extension) -> int:
        """The whole length in steps, at least one."""
        if length.steps:
            return length.steps
        if length.tokens:
            return max(1, math.ceil(length.tokens / self.tokens))
        return max(1, round((length.epochs or 1) * self.windows_per_epoch / self.windows))


def build_schedule(
    train: TrainConfig, size: StepSize, clock: Callable[[float, ScheduleShape], ClockSchedule]
) -> Schedule:
    """The schedule of a run; `clock(seconds, shape)` makes one that follows the clock from now on.

    Raises InputError where a recorded schedule cannot be read, or an extension ends before it begins.
    """
    found = _first_schedule(train, size, clock)
    for number, extension in enumerate(train.extended):
        shape = dataclasses.replace(train.schedule, start=extension.start)
        if extension.time is not None:  # an earlier one has passed, whatever it was
            last = number == len(train.extended) - 1
            found = clock(seconds(extension.time), shape) if last else None
            continue
        steps = size.steps(extension)
        if steps <= extension.step:
            name = next(name for name in LENGTHS if getattr(extension, name) is not None)
            raise InputError(
                f"{name}: {getattr(extension, name):,} makes a run of {steps:,} steps, and this one has "
                f"taken {extension.step:,}; give more"
            )
        found = ExtendedSchedule(found, StepSchedule(steps, shape, extension.step))
    assert found is not None
    return found


def _first_schedule(
    train: TrainConfig, size: StepSize, clock: Callable[[float, ScheduleShape], ClockSchedule]
) -> Schedule | None:
    """As the run was begun; None where it followed the clock and was extended since."""
    if train.replay is not None:
        try:
            return ReplaySchedule.of(read_lines(Path(train.replay), strict=True))
        except ValueError as error:
            raise InputError(f"train.replay: {train.replay} {error}") from None
    if train.time is not None:
        return None if train.extended else clock(seconds(train.time), train.schedule)
    if train.extended and not (train.steps or train.tokens or train.epochs):
        return None
    return StepSchedule(size.steps(train), train.schedule)


def checked_lengths(given: Mapping[str, Any]) -> dict[str, Any]:
    """What --resume is given of a length, in the types that a recipe has.

    Raises InputError for two of them, or one that is none.
    """
    named = {name: value for name, value in given.items() if value is not None}
    built = build(TrainConfig, named)
    return {name: getattr(built, name) for name in named}


def with_extension(
    values: Mapping[str, Any], lengths: Mapping[str, Any], step: int, elapsed: float, rate: float
) -> dict[str, Any]:
    """A run.yaml's content with an extension: from `step` on, which the run reached after `elapsed` seconds
    at a `rate` (a share of the peak). A run that has no step yet gets the new length in the place of its
    own."""
    train = dict(values["train"])
    if step == 0:
        train |= dict[str, Any].fromkeys((*LENGTHS, "replay")) | dict(lengths) | {"extended": []}
        train["replay"] = "metrics.jsonl" if lengths.get("time") is not None else None
    else:
        extension = Extension(step=step, start=min(max(rate, 0.0), 1.0), before=elapsed, **lengths)
        train["extended"] = [*(train.get("extended") or []), plain(extension)]
        if extension.time is not None:
            train["replay"] = "metrics.jsonl"  # whoever repeats the run takes the recorded steps
    return dict(values) | {"train": train}


def follows_clock(values: Mapping[str, Any]) -> bool:
    """Whether a run.yaml is of a run that has followed the clock.

    Its recorded schedule is for whoever repeats it.
    """
    train = values.get("train") or {}
    return train.get("time") is not None or any(
        each.get("time") for each in train.get("extended") or [] if isinstance(each, Mapping)
    )


def last_rate(lines: Iterable[Mapping[str, Any]], step: int, scale: float) -> float:
    """The share of the peak rate that a run had at this step, by its metrics; `scale` is what troubles have
    multiplied it by."""
    factors = [line["factor"] for line in lines if "factor" in line and line["step"] <= step]
    return float(factors[-1]) / scale if factors and scale else 0.0


def describe_extension(train: TrainConfig) -> str:
    """What an extension does to length and learning rate, in a sentence or two."""
    extension, shape = train.extended[-1], train.schedule
    name = next(name for name in LENGTHS if getattr(extension, name) is not None)
    value = getattr(extension, name)
    until = f"for {value} more" if name == "time" else f"to {value:,} {name} in all"
    warm = "stays at its peak" if extension.start > 0.999 else (
        f"warms up again from {100 * extension.start:.0f} % of its peak over the first "
        f"{100 * shape.warmup:.0f} % of the new part"
    )  # fmt: skip
    return (
        f"Goes on from step {extension.step:,} {until}. The learning rate {warm}, and decays to "
        f"{100 * shape.final:.0f} % over the last {100 * shape.decay:.0f} % of it."
    )
