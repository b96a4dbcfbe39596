"""A sweep over the learning rate by successive halving (Jamieson and Talwalkar 2016): many rates shortly, the
better half for longer."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from newleaf.errors import DivergedError, InputError, Stopped
from newleaf.format_amounts import counted
from newleaf.recipe import seconds
from newleaf.storage.atomic_write import write_json
from newleaf.train import run
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks, torchrun_size
from newleaf.train.objective.objective import SelectionMetric
from newleaf.train.runs.run_folder import RunFolder
from newleaf.tune.start_finetuning import TUNING, checked, open_objective
from newleaf.tune.tune_config import TuneConfig

# times the recipe's rate; should time run out, those nearest to it were tried
AROUND = (1.0, 2.0, 0.5, 4.0, 0.25, 8.0)
MAX_WIDENINGS = 3  # rates further out, while the best is the outermost
SHARES = (1 / 8, 1 / 4, 1 / 2)  # of the run's length, one for each round
TIMED_SHARE = 0.5  # of a timed run, at most, for all rounds together; the run itself has the rest


@dataclass(frozen=True)
class Trial:
    """One short run: its rate as a multiple of the recipe's, and what it reached.

    None where its loss went to infinity.
    """

    round: int
    factor: float
    learning_rate: float
    score: float | None


def sweep_learning_rate(
    config: TuneConfig, out: str | Path, monitor: Monitor, started: float, overwrite: bool = False
) -> RunFolder:
    """Find the rate, in short runs under `OUT-sweep`, then train with it into `out`.

    Sweep.json there says what each rate reached.

    Without --time the sweep takes about two and a half times as long as the run; with it, at most half of the
    time: where that is too short for all trials, it takes the best rate of the last round that was finished,
    or of what the first one tried.
    """
    if torchrun_size() > 1:
        raise InputError(
            "--sweep: its runs are short and many, so it runs in one process; start it without torchrun"
        )
    RunFolder(out).check_free(overwrite)
    config = checked(config, monitor)
    time_limit = seconds(config.train.time) if config.train.time is not None else math.inf
    # which settles the rates that the recipe leaves open
    objective = open_objective(config, TrialMonitor(monitor), Ranks())
    config, measure = objective.config, objective.measure
    del objective  # and the network with it
    search = LearningRateSweep(
        config, _folder(Path(out)), measure, monitor, started + TIMED_SHARE * time_limit
    )
    best = search.run()
    if best.score is None:
        raise DivergedError(
            "--sweep: the loss went to infinity at every rate that was tried; "
            f"begin from a lower one, such as --optimizer.learning_rate {best.learning_rate / 10:.1g}"
        )
    monitor.say(f"Sweep: the rate {best.learning_rate:g} reached the best {measure.words}, {best.score:.4f}.")
    now = time.monotonic()
    timed = config.train.time is not None
    left = _with_length(config, max(TIMED_SHARE / 2, 1 - (now - started) / time_limit)) if timed else config
    folder = run.begin(TUNING, _at(left, best.factor), out, monitor, now if timed else started, overwrite)
    write_json(
        folder.path / "sweep.json",
        {
            "measure": measure.key,
            "chosen": best.learning_rate,
            "trials": [dataclasses.asdict(t) for t in search.trials],
        },
    )
    return folder


@dataclass
class LearningRateSweep:
    """Trials under way. No trial is begun that is not likely to end before the `deadline` of this `clock`."""

    config: TuneConfig
    place: Path
    measure: SelectionMetric
    monitor: Monitor
    deadline: float
    clock: Callable[[], float] = time.monotonic
    trials: list[Trial] = field(default_factory=list)
    longest: float = 0.0  # seconds that a trial took

    def run(self) -> Trial:
        """The best of the last round that was finished, or of what the first one tried."""
        factors: Sequence[float] = AROUND
        ranked: list[Trial] = []
        for number, share in enumerate(SHARES, 1):
            found = self._round(number, share, factors)
            if number == 1 and len(found) == len(factors):
                found = self._widen(found)
            if len(found) < len(factors):
                self.monitor.say(
                    f"Sweep: no time for more than {counted(len(self.trials), 'trial')}; a longer --time "
                    f"tries more."
                )
                return ranked[0] if ranked else self._ranked(found)[0]
            ranked = self._ranked(found)
            factors = sorted(each.factor for each in ranked[: max(2, len(AROUND) // 2**number)])
        return ranked[0]

    def _round(self, number: int, share: float, factors: Sequence[float], of: int = 0) -> list[Trial]:
        """Trials of these factors, as long as there is time.

        A timed round is shared by `of`, or as many as there are.
        """
        found: list[Trial] = []
        for factor in factors:
            begun = self.clock()
            if self.trials and begun + self.longest > self.deadline:
                break
            found.append(self._trial(number, share, factor, of or len(factors)))
            self.longest = max(self.longest, self.clock() - begun)
        return found

    def _trial(self, number: int, share: float, factor: float, of: int) -> Trial:
        length = share if self.config.train.time is None else TIMED_SHARE / len(SHARES) / of
        config = quiet_trial(_with_length(_at(self.config, factor), length))
        rate = config.optimizer.whole().learning_rate
        try:
            folder = run.begin(
                TUNING,
                config,
                self.place / f"round-{number}-rate-{rate:.3g}",
                TrialMonitor(self.monitor),
                self.clock(),
            )
            trial = Trial(number, factor, rate, _score(folder, self.measure))
        except DivergedError:  # a rate that is too high is an answer too
            trial = Trial(number, factor, rate, None)
        self.trials.append(trial)
        reached = (
            "the loss went to infinity" if trial.score is None else f"{self.measure.words} {trial.score:.4f}"
        )
        self.monitor.say(f"Sweep {number} of {len(SHARES)}: rate {rate:.3g} → {reached}")
        return trial

    def _widen(self, found: list[Trial]) -> list[Trial]:
        """The first round with rates further out, as long as the best is the lowest or the highest of them;
        `MAX_WIDENINGS` more at most."""
        for _ in range(MAX_WIDENINGS):
            outermost = self._outermost(found)
            if outermost is None:
                return found
            end, further = outermost
            self.monitor.say(f"Sweep: the {end} rate was the best so far, so one beyond it is tried.")
            wider = self._round(1, SHARES[0], [further], len(AROUND))
            if not wider:
                return found
            found = found + wider
        if self._outermost(found) is not None:
            self.monitor.say(
                "Sweep: the best rate still stands at the edge of those tried; --optimizer.learning_rate "
                "begins elsewhere."
            )
        return found

    def _outermost(self, found: list[Trial]) -> tuple[str, float] | None:
        """Which end of the rates the best stands at, and the factor beyond it.

        None where it has neighbours on both sides.
        """
        best = self._ranked(found)[0].factor
        if best == max(each.factor for each in found):
            return "highest", best * 2
        return ("lowest", best / 2) if best == min(each.factor for each in found) else None

    def _ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best first; of equals the one that is nearest to the recipe's rate; of those that diverged, the
        lowest."""
        sign = -1 if self.measure.higher_is_better else 1

        def place(each: Trial) -> tuple[float, float]:
            return (
                (math.inf, each.factor)
                if each.score is None
                else (sign * each.score, abs(math.log(each.factor)))
            )

        return sorted(trials, key=place)


def _folder(out: Path) -> Path:
    """An empty folder for the trials."""
    place = out.with_name(f"{out.name}-sweep")
    if place.exists() and not (place / ".sweep").exists():
        raise InputError(f"{place}: exists and holds no sweep, so it is not touched; choose another --out")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / ".sweep").touch()
    return place


def _score(folder: RunFolder, measure: SelectionMetric) -> float:
    """What a trial reached; its checkpoints are not needed any more."""
    summary = folder.read_summary() or {}
    if not summary.get("finished"):
        raise Stopped("stopped in the sweep; the same command begins it again")
    shutil.rmtree(folder.state, ignore_errors=True)
    shutil.rmtree(folder.product, ignore_errors=True)
    return float(summary[measure.key])


def _at(config: TuneConfig, factor: float) -> TuneConfig:
    peak = config.optimizer.whole()
    adamw, muon = peak.learning_rate * factor, peak.matrix_learning_rate * factor
    scaled = dataclasses.replace(config.optimizer, learning_rate=adamw, matrix_learning_rate=muon)
    return dataclasses.replace(config, optimizer=scaled)


def _with_length(config: TuneConfig, share: float) -> TuneConfig:
    """The same run for a share of its length."""
    train = config.train
    if train.replay is not None:
        raise InputError(
            "--sweep: a run that is repeated from its run.yaml has its rates; leave the sweep out"
        )
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
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, prompts=(), track=(), keep_checkpoints=1)
    )
    label: Any = getattr(config, "label", None)
    if label is None:
        return config
    return dataclasses.replace(config, label=dataclasses.replace(label, baselines=False))  # type: ignore[call-arg]


class TrialMonitor:
    """A monitor that shows the steps of a trial and says nothing of it."""

    def __init__(self, shown: Monitor) -> None:
        self.stage, self.machine, self.step = shown.stage, shown.machine, shown.step

    def say(self, text: str) -> None: ...

    def validation(self, step: int, value: float, words: str) -> None: ...

    def sample(self, step: int, prompt: str, text: str) -> None: ...

    def close(self) -> None: ...
