"""What a timed run keeps of its time for the end: what is still to be done then, and no more."""

from types import SimpleNamespace
from typing import Any

import pytest

from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.validation import EXIT_SECONDS, FIRST_PLOT_SECONDS, Validation
from newleaf.train.objective.schedule import ClockSchedule, ScheduleShape

A_ROW = 0.01  # seconds


def kept(rows: int, reports: int, last_check: float) -> float:
    """The reserve of a run whose checks look at `rows` of 100, beside the plot's and the process's end."""
    anything: Any = None
    objective: Any = SimpleNamespace(
        evaluator=lambda *_: SimpleNamespace(all_rows=100, reports=reports, prompts=())
    )
    clock = ClockSchedule(60, ScheduleShape())
    checks = Validation(objective, anything, anything, Ranks(), clock, anything, anything)
    checks.rows = rows
    checks.row_times.append(A_ROW)
    checks.reserve(last_check)
    return clock.reserve - FIRST_PLOT_SECONDS - EXIT_SECONDS


def test_a_last_look_is_kept_for_where_checks_see_a_part() -> None:
    assert kept(rows=20, reports=0, last_check=0.5) == pytest.approx(0.5 + 100 * A_ROW)


def test_no_last_look_is_kept_for_where_each_check_sees_all() -> None:
    assert kept(rows=100, reports=0, last_check=1.5) == pytest.approx(1.5)


def test_a_report_is_kept_for_beside_the_look_that_comes_with_it() -> None:
    assert kept(rows=100, reports=30, last_check=1.5) == pytest.approx(1.5 + 130 * A_ROW)


def test_a_check_is_thought_to_take_no_less_than_its_rows() -> None:
    assert kept(rows=100, reports=0, last_check=0.2) == pytest.approx(100 * A_ROW)
