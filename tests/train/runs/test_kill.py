"""Kill -9 at any moment, resume: the same run, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from killed_runs import LONGEST, OPTIONS, finish, kill, kill_at, outcome, start, wait_for


@pytest.fixture(scope="module")
def whole(book: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the uninterrupted run leaves."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(book, run, OPTIONS)
    return outcome(run)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_and_resumed_equals_the_uninterrupted_one(
    book: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """Twice: at a random step and a few milliseconds, then, as the metrics hold that step already, at some
    moment of the resuming."""
    chance = random.Random(20240817)
    kills = 0
    for trial in range(5):
        run, step = tmp_path / str(trial), chance.randrange(24)
        for _ in range(2):
            process = start(book, run, OPTIONS)
            wait_for(run, step, process)
            kills += kill(process, after=chance.uniform(0, 0.1))
        finish(book, run, OPTIONS)
        assert outcome(run) == whole, trial
    assert kills > 5


@pytest.mark.slow
def test_a_run_killed_at_any_point_of_writing_and_resumed_equals_the_uninterrupted_one(
    book: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """Every place where a file is flushed, renamed or removed, a few at a time: run.yaml, metrics, model,
    checkpoint, summary."""
    done, call, killed = False, 1, 0
    while not done:
        run = tmp_path / str(call)
        process = start(book, run, OPTIONS, kill_at, call)
        process.join(LONGEST)
        done = process.exitcode == 0
        killed += not done
        if not done:
            finish(book, run, OPTIONS)
        assert outcome(run) == whole, call
        call += 3 if call < 16 else 13
    assert killed > 12
