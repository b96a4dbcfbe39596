"""Scores of labels, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from newleaf.measure.classification import calibration_error, label_scores, multi_label_scores


@pytest.mark.parametrize("labels", [2, 5])
def test_accuracy_f1_matthews_and_confusion_are_scikit_learns(labels: int) -> None:
    chance = np.random.default_rng(labels)
    truth = chance.integers(0, labels, 300)
    probabilities = chance.dirichlet(np.ones(labels), 300)
    probabilities[np.arange(300), truth] += 0.4
    probabilities /= probabilities.sum(1, keepdims=True)
    found, guess = label_scores(probabilities, truth), probabilities.argmax(1)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
    assert found.matthews == pytest.approx(metrics.matthews_corrcoef(truth, guess))
    assert found.confusion.tolist() == metrics.confusion_matrix(truth, guess).tolist()


def test_the_same_guess_for_all_has_no_correlation() -> None:
    assert label_scores(np.tile([0.9, 0.1], (4, 1)), np.array([0, 1, 0, 1])).matthews == 0.0


def test_scores_of_several_labels_are_scikit_learns() -> None:
    chance = np.random.default_rng(1)
    truth, probabilities = chance.integers(0, 2, (200, 4)), chance.random((200, 4))
    found, guess = multi_label_scores(probabilities, truth), (probabilities > 0.5).astype(int)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, guess))
    for kind in ("macro", "micro"):
        assert found[f"{kind}_f1"] == pytest.approx(metrics.f1_score(truth, guess, average=kind))


def test_the_calibration_error_by_hand() -> None:
    """Two bins: 0.9 twice, once right (|0.5 − 0.9| · 2/4), and 0.6 twice, both right (|1 − 0.6| · 2/4)."""
    confidence, right = np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, False, True, True])
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
