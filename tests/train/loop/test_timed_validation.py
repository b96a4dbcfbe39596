"""A timed run trains for most of its time, whatever its looks at held-out rows take, and ends when it
said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clocked_objective import Clock, ClockedObjective, run

from newleaf.train.loop.validation import EXIT_SECONDS, FIRST_PLOT_SECONDS
from newleaf.train.objective.schedule import ClockSchedule, ScheduleShape

LOOKS: list[dict[str, Any]] = [
    {"seconds": 60, "step_seconds": 0.5, "row_seconds": 0.001, "held_out": 100},  # all can be seen
    # answers that are written: each look would take 40 s
    {"seconds": 60, "step_seconds": 0.5, "row_seconds": 0.4, "held_out": 100},
    # a large test set
    {"seconds": 60, "step_seconds": 0.5, "row_seconds": 0.02, "held_out": 2000, "reports": 3000},
    {"seconds": 20, "step_seconds": 2.0, "row_seconds": 1.0, "held_out": 50},  # a busy machine
    {"seconds": 600, "step_seconds": 3.0, "row_seconds": 0.1, "held_out": 100_000},
]


@pytest.mark.parametrize("case", LOOKS)
def test_training_has_at_least_half_of_the_time_and_the_run_ends_when_it_said(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = ClockedObjective(Clock(), **case)
    summary, metrics, took = run(objective, tmp_path / "run", monkeypatch)
    steps = [line for line in metrics if "factor" in line]
    assert len(steps) * case["step_seconds"] >= 0.5 * case["seconds"] - case["step_seconds"]
    assert took <= case["seconds"] + case["step_seconds"]
    assert min(line["factor"] for line in steps) > 0
    assert summary["finished"]


@pytest.mark.parametrize("case", LOOKS)
def test_the_figures_before_and_after_are_over_the_same_rows_and_their_number_is_told(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    objective = ClockedObjective(Clock(), **case)
    summary, metrics, _ = run(objective, tmp_path / "run", monkeypatch, said=said)
    before = next(line for line in metrics if line["step"] == 0 and "val_loss" in line)["val_windows"]
    assert objective.seen[-1] == before
    assert sum(objective.reported) == (objective.reported[0] if case.get("reports") else 0)
    if before == case["held_out"]:
        assert "measured_on" not in summary
        assert not said
    else:
        assert summary["measured_on"] == {"rows": before, "of": case["held_out"]}
        assert any(f"{before:,} of {case['held_out']:,}" in text for text in said)


def test_a_time_that_opening_has_spent_still_gives_a_step_at_a_real_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = ClockedObjective(Clock(), seconds=10, step_seconds=5, row_seconds=0.1, held_out=20)
    summary, metrics, _ = run(objective, tmp_path / "run", monkeypatch, opening=11)
    (step,) = [line for line in metrics if "factor" in line]
    assert step["factor"] > 0.3
    before = next(line["val_loss"] for line in metrics if "val_loss" in line)
    assert summary["val_loss"] < before


def test_a_clock_schedule_takes_each_step_at_the_rate_of_its_middle() -> None:
    """As a schedule by steps does: of four steps none is at rate zero, though the first begins at 0 and the
    last ends at 1."""
    now = [0.0]
    shape = ScheduleShape(warmup=0.06, decay=0.94)
    schedule = ClockSchedule(40, shape, clock=lambda: now[0])
    schedule.step_seconds = 10.0
    found = []
    for step in range(4):
        found.append(schedule.factor(step))
        now[0] += 10
        schedule.progress(step + 1)
    assert found == pytest.approx([shape.factor((step + 0.5) / 4) for step in range(4)])


def test_what_is_kept_for_the_end_never_takes_more_than_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from newleaf.train.distributed.process_group import Ranks
    from newleaf.train.loop.validation import Validation

    anything: Any = None
    objective: Any = SimpleNamespace(
        evaluator=lambda *_: SimpleNamespace(all_rows=100, reports=0, prompts=()),
        validates_before_training=True,
    )
    clock = ClockSchedule(60, ScheduleShape())
    checks = Validation(objective, anything, anything, Ranks(), clock, anything, anything)
    checks.rows = 10
    checks.row_times.append(5.0)  # seconds a row: the machine has become slow
    checks.reserve(1.0)
    assert FIRST_PLOT_SECONDS + EXIT_SECONDS < clock.reserve == 30
