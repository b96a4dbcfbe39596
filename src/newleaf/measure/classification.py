"""How well labels were given: accuracy, F1, Matthews correlation, confusion, calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
BINS = 10  # of confidence, for the calibration error


def confusion(truth: Ints, guess: Ints, labels: int) -> Ints:
    """How often each label (row) was taken for each (column): int64 [L, L]."""
    return np.bincount(truth * labels + guess, minlength=labels * labels).reshape(labels, labels)


def macro_f1(table: Ints) -> float:
    """The mean over the labels of 2·TP / (2·TP + FP + FN), 0 for a label that neither occurs nor is given."""
    right = np.diag(table).astype(float)
    total = table.sum(0) + table.sum(1)
    return float(np.mean(np.divide(2 * right, total, out=np.zeros_like(right), where=total > 0)))


def matthews(table: Ints) -> float:
    """Matthews' correlation for any number of labels (Gorodkin 2004).

    0 where all true labels, or all predictions, are the same.
    """
    right, count = float(np.trace(table)), float(table.sum())
    truth, guess = table.sum(1).astype(float), table.sum(0).astype(float)
    spread = (count**2 - guess @ guess) * (count**2 - truth @ truth)
    return float((right * count - truth @ guess) / math.sqrt(spread)) if spread > 0 else 0.0


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017): |accuracy − mean confidence| over equal bins of
    confidence, weighted by their size."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gaps = np.abs(np.bincount(place, right, bins) - np.bincount(place, confidence, bins))
    return float(gaps[counts > 0].sum() / max(1, len(right)))


@dataclass(frozen=True)
class LabelScores:
    """What a report says of one label for each text."""

    accuracy: float
    macro_f1: float
    matthews: float
    calibration_error: float
    confusion: Ints


def label_scores(probabilities: Floats, truth: Ints) -> LabelScores:
    """Scores of probabilities [N, L] against the labels' numbers [N]."""
    guess = probabilities.argmax(1)
    table = confusion(truth, guess, probabilities.shape[1])
    error = calibration_error(probabilities.max(1), guess == truth)
    return LabelScores(float((guess == truth).mean()), macro_f1(table), matthews(table), error, table)


def multi_label_scores(probabilities: Floats, truth: Ints) -> dict[str, float]:
    """Scores of probabilities [N, L] of labels that hold independently, given where above one half; truth [N,
    L] of 0 and 1.

    `accuracy` counts texts with exactly the right labels.
    """
    guess = (probabilities > 0.5).astype(np.int64)
    both, total = (guess * truth).sum(0).astype(float), (guess + truth).sum(0)
    each = np.divide(2 * both, total, out=np.zeros_like(both), where=total > 0)
    chance = np.maximum(probabilities, 1 - probabilities)
    return {
        "accuracy": float((guess == truth).all(1).mean()),
        "macro_f1": float(each.mean()),
        "micro_f1": float(2 * both.sum() / max(1, total.sum())),
        "calibration_error": calibration_error(chance.ravel(), (guess == truth).ravel()),
    }
