"""How many threads take part: simulated machines, quiet and busy; and a thread pool whose size changes from
run to run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.backend.thread_count import MAX_RETRY_RUNS, ThreadCount
from newleaf.model import GPT, GPTConfig

ONE_ROW = 1, 1


def spent(
    thread_count: ThreadCount, runs: int, seconds: Callable[[int], float], work: tuple[int, int] = ONE_ROW
) -> tuple[float, list[int]]:
    """Seconds of so many runs on a machine where so many threads take so long, and the sizes."""
    total, sizes = 0.0, list[int]()
    for _ in range(runs):
        size = thread_count.choose(work)
        took = seconds(size)
        thread_count.record(size, work, took)
        total += took
        sizes.append(size)
    return total, sizes


def quiet(size: int) -> float:
    return 1.0 / size


def busy(size: int) -> float:
    return 2.0 if size == 1 else 40.0 * size


def test_all_threads_work_on_a_quiet_machine_and_one_run_in_thousands_measures_fewer() -> None:
    thread_count = ThreadCount(8)
    total, sizes = spent(thread_count, 5000, quiet)
    assert sizes.count(8) == 4999
    assert total < 1.001 * 5000 * quiet(8)


def test_a_slow_first_run_is_not_taken_for_a_busy_machine() -> None:
    thread_count = ThreadCount(2)
    spent(thread_count, 1, lambda size: 1000.0)
    assert spent(thread_count, 50, quiet)[1].count(1) == 1


def test_one_hiccup_changes_nothing() -> None:
    thread_count = ThreadCount(2)
    spent(thread_count, 100, quiet)
    spent(thread_count, 1, lambda size: 4.0)
    assert spent(thread_count, 100, quiet)[1] == [2] * 100


@pytest.mark.parametrize("before", [0, 1000])
def test_on_a_busy_machine_fewer_work_and_larger_teams_are_tried_ever_more_rarely(before: int) -> None:
    thread_count = ThreadCount(8)
    spent(thread_count, before, quiet)
    spent(thread_count, 60, busy)
    assert thread_count.size == 1
    total, sizes = spent(thread_count, 20 * MAX_RETRY_RUNS, busy)
    assert sizes.count(1) / len(sizes) > 0.998
    assert total < 1.1 * len(sizes) * busy(1)


def test_all_come_back_when_the_machine_is_quiet_again() -> None:
    thread_count = ThreadCount(4)
    spent(thread_count, 20_000, busy)
    _, sizes = spent(thread_count, 4 * MAX_RETRY_RUNS, quiet)
    assert sizes[-1000:] == [4] * 1000


def test_a_larger_team_may_take_long_to_wake_up() -> None:
    thread_count, sizes = ThreadCount(2), [1]
    spent(thread_count, 500, busy)
    assert thread_count.size == 1

    def slow_to_wake(size: int) -> float:
        sizes.append(size)
        return 3.0 if size > sizes[-2] else quiet(size)

    spent(thread_count, 2 * MAX_RETRY_RUNS, slow_to_wake)
    assert thread_count.size == 2


def test_other_work_is_compared_with_its_own_like() -> None:
    """Runs of many rows take longer than those of one, and nobody takes that for a busy machine."""
    thread_count = ThreadCount(2)
    for _ in range(50):
        assert spent(thread_count, 5, quiet)[1].count(1) <= 1
        assert spent(thread_count, 5, lambda size: 30 * quiet(size), (16, 16))[1].count(1) <= 1
    assert thread_count.size == 2


def test_a_crew_computes_the_same_whatever_its_size_from_run_to_run() -> None:
    torch.manual_seed(0)
    network = GPT(
        GPTConfig(256, 64, 2, 4, 64, norm="rms_norm", positions="rotary", activation="silu", gated=True)
    ).eval()
    alone, many = LoweredRunner(network, threads=1), LoweredRunner(network, threads=4)
    ids = torch.randint(256, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    sizes = [4, 1, 2, 4, 4, 1, 1, 3, 2, 1]
    for turn in range(20):
        for position, token in enumerate(ids):
            many.thread_pool.thread_count.size, many.thread_pool.thread_count.trial = (
                sizes[(turn + position) % len(sizes)],
                0,
            )
            found = many.step([token], [position], [0])
            if turn in (0, 19):
                assert torch.equal(found, alone.step([token], [position], [0])), (turn, position)
        many.thread_pool.sleep()
