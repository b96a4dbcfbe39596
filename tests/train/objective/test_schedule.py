"""Learning rates against their closed forms."""

from __future__ import annotations

import pytest

from newleaf.train.objective.schedule import ClockSchedule, ReplaySchedule, ScheduleShape, StepSchedule


def test_the_rate_warms_up_holds_and_decays_linearly() -> None:
    shape = ScheduleShape(warmup=0.1, decay=0.4, final=0.2)
    for progress, factor in (
        (0.0, 0.0),
        (0.05, 0.5),
        (0.1, 1.0),
        (0.5, 1.0),
        (0.6, 1.0),
        (0.8, 0.6),
        (1.0, 0.2),
    ):
        assert shape.factor(progress) == pytest.approx(factor)


def test_a_step_schedule_ends_after_its_steps_and_wastes_none() -> None:
    schedule = StepSchedule(200, ScheduleShape())
    factors = [schedule.factor(step) for step in range(200)]
    assert schedule.progress(199) < 1 <= schedule.progress(200)
    assert min(factors) > 0
    assert max(factors) == 1


def test_a_clock_schedule_keeps_its_reserve_and_ends_on_time() -> None:
    now = [100.0]
    schedule = ClockSchedule(60, ScheduleShape(), already=10, clock=lambda: now[0])
    schedule.reserve = 5
    assert schedule.progress(0) == 0
    now[0] += 22.5
    assert schedule.progress(7) == pytest.approx(0.5)
    assert schedule.remaining() == pytest.approx(27.5)
    now[0] += 22.5
    assert schedule.progress(9) == 1


def test_a_resumed_clock_schedule_takes_up_its_progress_with_what_time_is_left() -> None:
    now = [0.0]
    schedule = ClockSchedule(60, ScheduleShape(), clock=lambda: now[0])
    schedule.resume(spent=40, progress=0.7)
    assert schedule.progress(0) == pytest.approx(0.7)
    now[0] = 10
    assert schedule.progress(0) == pytest.approx(0.85)
    now[0] = 20
    assert schedule.progress(0) == pytest.approx(1)


def test_a_replay_takes_the_recorded_rates() -> None:
    schedule = ReplaySchedule([0.1, 1.0, 0.3])
    assert [schedule.factor(step) for step in range(3)] == [0.1, 1.0, 0.3]
    assert schedule.progress(2) < 1 <= schedule.progress(3)


def test_slopes_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^warmup: warmup 0\.6 and decay 0\.5"):
        ScheduleShape(warmup=0.6, decay=0.5)
