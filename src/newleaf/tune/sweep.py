"""A sweep over the learning rate by successive halving (Jamieson and Talwalkar 2016): many rates shortly, the better half for longer."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newleaf.errors import InputError, Stopped
from newleaf.storage.files import write_json
from newleaf.train import run
from newleaf.train.course import Course, Measure
from newleaf.train.monitor import Monitor
from newleaf.train.optimizer import OptimizerConfig
from newleaf.train.ranks import Ranks, torchrun_size
from newleaf.train.recipe import seconds
from newleaf.train.run_folder import RunFolder
from newleaf.tune.config import TuneConfig
from newleaf.tune.finetune import TUNING, checked, open_course

AROUND = (1.0, 2.0, 0.5, 4.0, 0.25, 8.0)  # times the recipe's rate; should time run out, those nearest to it were tried
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of the run's length, one for each round
TIMED_SHARE = 0.5  # of a timed run, at most, for all rounds together; the run itself has the rest


@dataclass(frozen=True)
class Trial:
    """One short run: its rate as a multiple of the recipe's, and what it reached."""

    round: int
    factor: float
    learning_rate: float
    score: float


def swept(config: TuneConfig, out: str | Path, monitor: Monitor, started: float, overwrite: bool = False) -> RunFolder:
    """Find the rate, in short runs under `OUT-sweep`, then train with it into `out`; sweep.json there says what each rate reached.

    Without --time the sweep takes about two and a half times as long as the run; with it, at most half of the time: where that is too
    short for all trials, it takes the best rate of the last round that was finished, or of what the first one tried.
    """
    if torchrun_size() > 1:
        raise InputError("--sweep: its runs are short and many, so it runs in one process; start it without torchrun")
    RunFolder(out).check_free(overwrite)
    config = checked(config, monitor)
    time_limit = seconds(config.train.time) if config.train.time is not None else math.inf
    best, trials, measure = _search(config, Path(out), monitor, started + TIMED_SHARE * time_limit)
    monitor.say(f"Sweep: the rate {best.learning_rate:g} reached the best {measure.words}, {best.score:.4f}.")
    now = time.monotonic()
    timed = config.train.time is not None
    left = _with_length(config, max(TIMED_SHARE / 2, 1 - (now - started) / time_limit)) if timed else config
    folder = run.begin(TUNING, _at(left, best.factor), out, monitor, now if timed else started, overwrite)
    write_json(
        folder.path / "sweep.json",
        {"measure": measure.key, "chosen": best.learning_rate, "trials": [dataclasses.asdict(t) for t in trials]},
    )
    return folder


def _search(config: TuneConfig, out: Path, monitor: Monitor, deadline: float) -> tuple[Trial, list[Trial], Measure]:
    """The best trial, all of them, and the measure; no trial is begun that is not likely to end before the deadline."""
    place = out.with_name(f"{out.name}-sweep")
    if place.exists() and not (place / ".sweep").exists():
        raise InputError(f"{place}: exists and holds no sweep, so it is not touched; choose another --out")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / ".sweep").touch()
    factors: Sequence[float] = AROUND
    trials: list[Trial] = []
    measures: list[Measure] = []

    def opened(given: TuneConfig, shown: Monitor, ranks: Ranks) -> Course:
        course = open_course(given, shown, ranks)
        measures.append(course.measure)
        return course

    kind = dataclasses.replace(TUNING, open=opened)
    longest = 0.0
    ranked: list[Trial] = []
    for number, share in enumerate(SHARES, 1):
        found: list[Trial] = []
        for factor in factors:
            begun = time.monotonic()
            if trials + found and begun + longest > deadline:
                monitor.say(f"Sweep: no time for more than {len(trials + found)} trials; a longer --time tries more.")
                return ranked[0] if ranked else _ranked(found, measures[0])[0], trials + found, measures[0]
            length = share if config.train.time is None else TIMED_SHARE / len(SHARES) / len(factors)
            trial = quiet_trial(_with_length(_at(config, factor), length))
            folder = run.begin(
                kind, trial, place / f"round-{number}-rate-{trial.optimizer.learning_rate:.3g}", Muted(monitor), time.monotonic()
            )
            found.append(Trial(number, factor, trial.optimizer.learning_rate, _score(folder, measures[0])))
            longest = max(longest, time.monotonic() - begun)
            monitor.say(f"Sweep {number} of {len(SHARES)}: rate {found[-1].learning_rate:.3g} → {measures[0].words} {found[-1].score:.4f}")
        trials += found
        ranked = _ranked(found, measures[0])
        factors = sorted(each.factor for each in ranked[: max(2, len(ranked) // 2)])
    return ranked[0], trials, measures[0]


def _ranked(trials: Sequence[Trial], measure: Measure) -> list[Trial]:
    return sorted(trials, key=lambda each: each.score, reverse=measure.higher_is_better)


def _score(folder: RunFolder, measure: Measure) -> float:
    """What a trial reached; its checkpoints are not needed any more."""
    summary = folder.read_summary() or {}
    if not summary.get("finished"):
        raise Stopped("stopped in the sweep; the same command begins it again")
    shutil.rmtree(folder.state, ignore_errors=True)
    shutil.rmtree(folder.product, ignore_errors=True)
    return float(summary[measure.key])


def _at(config: TuneConfig, factor: float) -> TuneConfig:
    peak: OptimizerConfig = config.optimizer
    scaled = dataclasses.replace(peak, learning_rate=peak.learning_rate * factor, matrix_learning_rate=peak.matrix_learning_rate * factor)
    return dataclasses.replace(config, optimizer=scaled)


def _with_length(config: TuneConfig, share: float) -> TuneConfig:
    """The same run for a share of its length."""
    train = config.train
    if train.replay is not None:
        raise InputError("--sweep: a run that is repeated from its run.yaml has its rates; leave the sweep out")
    shorter: dict[str, Any] = {}
    for name in ("steps", "tokens"):
        if (whole := getattr(train, name)) is not None:
            shorter[name] = max(1, round(whole * share))
    if train.epochs is not None:
        shorter["epochs"] = train.epochs * share
    if train.time is not None:
        shorter["time"] = f"{seconds(train.time) * share:.2f}"
    return dataclasses.replace(config, train=dataclasses.replace(train, **shorter))


def quiet_trial(config: TuneConfig) -> TuneConfig:
    """A trial without samples, trackers and baselines."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, prompts=(), track=(), keep_checkpoints=1))
    label: Any = getattr(config, "label", None)
    if label is None:
        return config
    return dataclasses.replace(config, label=dataclasses.replace(label, baselines=False))  # type: ignore[call-arg]


class Muted:
    """A monitor that shows the steps of a trial and says nothing of it."""

    def __init__(self, shown: Monitor) -> None:
        self.stage, self.machine, self.step = shown.stage, shown.machine, shown.step

    def say(self, text: str) -> None: ...

    def validation(self, step: int, value: float, words: str) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...
