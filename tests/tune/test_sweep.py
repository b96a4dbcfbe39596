"""Which rates a sweep tries: trials are functions of their rate here, and a clock that they advance is the
only one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from base_models import make_base, opinions, write_rows
from fake_clocks import Clock
from killed_runs import RecordingMonitor

import newleaf
from newleaf.errors import DivergedError
from newleaf.train.objective.objective import SelectionMetric
from newleaf.tune.learning_rate_sweep import AROUND, MAX_WIDENINGS, LearningRateSweep
from newleaf.tune.start_finetuning import read_config

RATE = 0.001  # the recipe's
LOSS, ACCURACY = (
    SelectionMetric("val_loss", "nats"),
    SelectionMetric("val_accuracy", "accuracy", higher_is_better=True),
)
WANTED = {
    "task": "classify",
    "model": "base",
    "source": ["rows.jsonl"],
    "optimizer": {"kind": "adamw", "learning_rate": RATE},
}

Score = Callable[[float], float]


def best_at(factor: float, sign: int = 1) -> Score:
    """A score of rates, as a multiple of the recipe's, that is best at one of them and worse the further
    another is."""
    return lambda tried: sign * abs(math.log2(tried / factor))


class Trials:
    """A search whose trials take a second each and reach what `score` says of their rate."""

    def __init__(
        self, patch: pytest.MonkeyPatch, folder: Path, score: Score, measure: SelectionMetric = LOSS,
        seconds: float = math.inf, length: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        clock, self.heard, self.lengths = Clock(), RecordingMonitor(), []

        def begin(kind: Any, config: Any, out: Path, *rest: Any) -> Any:
            clock.advance(1)
            self.lengths.append(config.train.steps or config.train.time)
            reached = score(config.optimizer.learning_rate / RATE)
            if math.isinf(reached):
                raise DivergedError("the loss is infinite")
            gone = folder / "gone"
            return SimpleNamespace(
                read_summary=lambda: {"finished": True, measure.key: reached}, state=gone, product=gone
            )

        patch.setattr("newleaf.train.run.begin", begin)
        config = read_config({**WANTED, "train": length or {"steps": 80}})
        self.search = LearningRateSweep(config, folder, measure, self.heard, clock() + seconds, clock)
        self.best = self.search.run()

    def tried(self, number: int = 1) -> list[float]:
        """The factors of a round, in order."""
        return [round(trial.factor, 6) for trial in self.search.trials if trial.round == number]


@pytest.mark.parametrize("measure", [LOSS, ACCURACY])
@pytest.mark.parametrize(
    ("best", "beyond"),
    [(2, []), (8, [16]), (16, [16, 32]), (32, [16, 32, 64]), (0.25, [0.125]), (0.125, [0.125, 0.0625])],
)
def test_a_sweep_goes_beyond_an_edge_until_the_best_rate_has_neighbours_on_both_sides(
    best: float,
    beyond: list[float],
    measure: SelectionMetric,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    made = Trials(monkeypatch, tmp_path, best_at(best, -1 if measure.higher_is_better else 1), measure)
    assert made.tried() == [*AROUND, *beyond]
    assert made.best.factor == best
    assert made.best.learning_rate == pytest.approx(best * RATE)
    end = "highest" if best > 1 else "lowest"
    assert len(made.heard.about(f"the {end} rate was the best so far, so one beyond it is tried")) == len(
        beyond
    )
    assert not made.heard.about("edge")
    assert [len(made.tried(number)) for number in (2, 3)] == [3, 2]
    assert all(best in made.tried(number) for number in (2, 3))


@pytest.mark.parametrize(("best", "factors"), [(1e6, [16, 32, 64]), (1e-6, [0.125, 0.0625, 0.03125])])
def test_widening_stops_and_says_that_the_best_rate_is_at_the_edge(
    best: float, factors: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Trials(monkeypatch, tmp_path, best_at(best))
    assert made.tried() == [*AROUND, *factors]
    assert len(factors) == MAX_WIDENINGS
    assert made.best.factor == factors[-1]
    assert made.heard.about(
        "the best rate still stands at the edge of those tried; --optimizer.learning_rate begins elsewhere"
    )


def test_rates_that_teach_nothing_are_no_edge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All alike, as the accuracy of a model that gives every row one label: the recipe's own rate is
    taken."""
    made = Trials(monkeypatch, tmp_path, lambda factor: 0.5, ACCURACY)
    assert made.tried() == list(AROUND)
    assert made.best.factor == 1


def test_a_rate_that_diverges_is_the_worst_and_ends_no_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Trials(monkeypatch, tmp_path, lambda factor: math.inf if factor > 2 else -factor)
    assert made.tried() == list(AROUND)
    assert made.best.factor == 2
    assert [trial.factor for trial in made.search.trials if trial.score is None] == [4, 8]
    assert made.heard.about("rate 0.008 → the loss went to infinity")
    lower = Trials(monkeypatch, tmp_path, lambda factor: math.inf if factor > 0.1 else factor)
    assert lower.tried() == [*AROUND, 0.125, 0.0625, 0.03125]
    assert lower.best.factor == 0.03125


@pytest.mark.parametrize(("seconds", "tried"), [(3, 3), (6, 6), (7, 7), (9, 9), (100, 14)])
def test_a_sweep_begins_no_trial_that_would_end_after_its_deadline(
    seconds: float, tried: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second each; the best is beyond the edge throughout, so three rates are added and rounds of three and
    two follow."""
    made = Trials(monkeypatch, tmp_path, best_at(1e6), LOSS, seconds, {"time": "60s"})
    assert len(made.search.trials) == tried
    known = [
        trial
        for trial in made.search.trials
        if trial.round == max(1, made.search.trials[-1].round - (tried < 14))
    ]
    assert made.best.factor == max(trial.factor for trial in known)
    assert bool(made.heard.about(f"no time for more than {tried} trials")) == (tried < 14)


def test_a_timed_sweep_takes_half_of_the_time_at_most_for_all_its_rounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Trials(monkeypatch, tmp_path, best_at(1), LOSS, length={"time": "60s"})
    assert sum(float(length) for length in made.lengths) == pytest.approx(30, abs=0.1)
    whole = Trials(monkeypatch, tmp_path, best_at(1))
    assert whole.lengths == [10] * 6 + [20] * 3 + [40] * 2


def test_the_chosen_rate_and_what_each_reached_are_written_down(tmp_path: Path) -> None:
    run = newleaf.finetune(
        make_base(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", opinions(16)), task="classify",
        out=tmp_path / "run", quiet=True, sweep=True, steps=8,
        optimizer={"kind": "adamw", "learning_rate": 1e-4},
        train={"threads": 1, "precision": "fp32", "batch_size": 4}, label={"baselines": False},
    )  # fmt: skip
    found = json.loads((tmp_path / "run/sweep.json").read_text())
    assert found["chosen"] == run.config["optimizer"]["learning_rate"]
    last = [trial for trial in found["trials"] if trial["round"] == 3]
    assert max(trial["score"] for trial in last) == next(
        trial["score"] for trial in last if trial["learning_rate"] == found["chosen"]
    )
