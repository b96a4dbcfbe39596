"""Intervals and tests of differences, against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from newleaf.evaluation.report_content import shown
from newleaf.evaluation.statistics import compare, estimate, mcnemar


def test_the_standard_error_of_a_mean_is_scipys_and_the_interval_is_the_normal_ones() -> None:
    values = np.random.default_rng(0).random(800)
    found = estimate(values.tolist())
    assert found.value == pytest.approx(values.mean())
    assert found.stderr == pytest.approx(stats.sem(values))
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_intervals_hold_the_truth_about_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        found = estimate(generator.binomial(1, 0.7, 120).tolist(), resamples=1000)
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_a_ratio_is_weighted_and_a_perplexity_is_the_exponential_of_it() -> None:
    nats, tokens = [10.0, 30.0, 5.0], [5.0, 10.0, 1.0]
    found = estimate(nats, tokens, np.exp)
    assert found.value == pytest.approx(math.exp(45 / 16))
    assert found.low <= found.value <= found.high


def test_one_item_has_no_width_and_none_is_refused() -> None:
    found = estimate([0.5])
    assert (found.low, found.high, found.stderr) == (0.5, 0.5, 0.0)
    with pytest.raises(ValueError, match="no items"):
        estimate([])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (9, 1), (5, 5), (40, 60), (700, 500)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    wanted = stats.binomtest(min(only_a, only_b), only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(only_a, only_b) == pytest.approx(wanted, rel=1e-9)


def test_the_same_answers_do_not_differ_and_clearly_better_ones_do() -> None:
    generator = np.random.default_rng(2)
    one = generator.binomial(1, 0.5, 400).astype(float)
    assert not compare(one.tolist(), one.tolist()).real
    better = np.maximum(one, generator.binomial(1, 0.3, 400))
    found = compare(better.tolist(), one.tolist())
    assert found.real
    assert found.low > 0
    assert (found.only_a, found.only_b) == (int((better > one).sum()), 0)
    assert found.test == "McNemar's exact test"


def test_models_that_do_not_differ_are_called_different_one_time_in_twenty_at_most() -> None:
    generator, wrong = np.random.default_rng(3), 0
    for _ in range(200):
        difficulty = generator.random(150)
        one, other = ((generator.random(150) < difficulty).astype(float) for _ in range(2))
        wrong += compare(one.tolist(), other.tolist(), resamples=200).real
    assert wrong / 200 <= 0.07


def test_likelihoods_are_compared_by_the_paired_bootstrap_which_sees_what_unpaired_intervals_do_not() -> None:
    generator = np.random.default_rng(4)
    difficulty = generator.normal(100, 30, 200)
    one, other = difficulty + generator.normal(0, 1, 200), difficulty + 1 + generator.normal(0, 1, 200)
    found = compare(one.tolist(), other.tolist())
    assert found.test == "paired bootstrap"
    assert found.real
    assert found.value == pytest.approx(float((one - other).mean()))
    low, high = stats.norm.interval(0.95, (one - other).mean(), stats.sem(one - other))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)
    assert estimate(one.tolist()).low < estimate(other.tolist()).value  # each alone says nothing


def test_items_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="2 and 3 items"):
        compare([1.0, 0.0], [1.0, 0.0, 1.0])


@pytest.mark.filterwarnings("error")
def test_a_perplexity_beyond_all_squares_is_estimated_and_shown_short() -> None:
    found = estimate([400.0, 390.0, 410.0], finish=np.exp)
    assert found.value == pytest.approx(math.exp(400))
    assert found.stderr > 0
    assert math.isfinite(found.stderr)
    assert shown("word_perplexity", found.value) == "5.22e+173"
