"""The baselines of a classifier: what they give, and that a timed run gives them no more than their share of
it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from base_models import make_base, opinions, write_rows
from fake_clocks import Clock
from killed_runs import RecordingMonitor

import newleaf
from newleaf.tune.labels import baselines
from newleaf.tune.labels.baselines import FIRST_ROWS, TimeLimit, bag_of_words, majority

ROWS = 200_000


class Fits:
    """Fitting takes `row` seconds for each row, and a little more each with more of them."""

    def __init__(self, patch: pytest.MonkeyPatch, row: float) -> None:
        self.clock, self.rows, self.row = Clock(), [], row
        patch.setattr(baselines, "_fitted", self._fitted)

    def _fitted(self, train: Any, answers: Any, options: Any, seed: int, some: Any) -> Any:
        self.rows.append(len(some))
        self.clock.advance(self.row * len(some) * (len(some) / FIRST_ROWS) ** 0.05)
        return lambda texts: np.zeros((len(texts), 2))


@pytest.mark.parametrize(("row", "seconds"), [(0.0005, 5), (0.0001, 5), (0.002, 10), (0.00001, 3), (1e-6, 5)])
def test_the_bag_of_words_keeps_its_time_and_says_from_how_many_rows_it_learned(
    row: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    fits, answers = Fits(monkeypatch, row), np.arange(ROWS) % 2
    begin = fits.clock()
    found = bag_of_words(["a text of a few words"] * ROWS, answers, 0, TimeLimit(seconds, fits.clock))
    assert fits.clock() - begin <= seconds
    (name,) = found
    used = fits.rows[-1]
    assert name == ("tf-idf words" if used == ROWS else f"tf-idf words ({used:,} of 200,000 rows)")
    assert used >= min(ROWS, 0.3 * seconds / row), "most of the time is put to use"


def test_even_the_first_rows_are_fitted_however_slow_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    fits = Fits(monkeypatch, 0.01)
    found = bag_of_words(["x"] * ROWS, np.arange(ROWS) % 2, 0, TimeLimit(5, fits.clock))
    assert fits.rows == [FIRST_ROWS, FIRST_ROWS], "of words and of characters"
    assert list(found) == [f"tf-idf {kind} (2,000 of 200,000 rows)" for kind in ("words", "characters")]


def test_without_a_clock_all_rows_are_fitted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    fits = Fits(monkeypatch, 1.0)
    assert list(bag_of_words(["a text of a few words"] * ROWS, np.arange(ROWS) % 2, 0)) == ["tf-idf words"]
    assert fits.rows == [ROWS]


def test_probabilities_are_scikit_learns_own_on_the_rows_that_were_drawn() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    rows = opinions(120)
    texts, answers = (
        [row["text"] for row in rows],
        np.array([row["label"] == "good" for row in rows]).astype(np.int64),
    )
    found = bag_of_words(texts, answers, 3)
    features = text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    stock = linear.LogisticRegression(C=4.0, max_iter=1000, random_state=3).fit(
        features.fit_transform(texts), answers
    )
    asked = ["a fine story", "grey and cold", "nobody"]
    np.testing.assert_allclose(
        found["tf-idf words"](asked), stock.predict_proba(features.transform(asked)), atol=1e-6
    )
    assert majority(answers[:59], 2)(asked).tolist() == [[0.0, 1.0]] * 3
    several = majority(np.array([[1, 0], [1, 1], [1, 0]]), 2)(asked)
    assert several.tolist() == [[1.0, 0.0]] * 3
    assert bag_of_words(["!", "?"], np.array([0, 1]), 0).keys() <= {"tf-idf characters"}, "no text has a word"


def test_a_timed_run_names_the_rows_in_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    real, limits = baselines._fit_in_time, []

    def in_time(fit: Any, count: int, seed: int, limit: TimeLimit) -> Any:
        limits.append(limit.seconds)
        return real(fit, count, seed, TimeLimit(0.0) if math.isfinite(limit.seconds) else limit)

    monkeypatch.setattr(baselines, "_fit_in_time", in_time)
    monkeypatch.setattr(baselines, "FIRST_ROWS", 20)
    heard, rows = RecordingMonitor(), write_rows(tmp_path / "rows.jsonl", opinions(48))
    run = newleaf.finetune(
        make_base(tmp_path / "base"),
        rows,
        task="classify",
        out=tmp_path / "run",
        time="2s",
        train={"threads": 1},
        monitor=heard,
    )
    assert sum(limits) == pytest.approx(0.08 * 2)
    names = ["commonest label", "tf-idf words (20 of 43 rows)", "tf-idf characters (20 of 43 rows)"]
    assert list(json.loads((run.path / "report.json").read_text())["baselines"]) == names
    assert list(run.summary["baselines"]) == names
    assert heard.about(
        "Baselines: tf-idf words (20 of 43 rows), tf-idf characters (20 of 43 rows), since they may take 8 "
        "% of the time"
    )
