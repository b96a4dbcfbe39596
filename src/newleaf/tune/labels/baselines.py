"""What a classifier should beat: the commonest label, and a bag of words with logistic regression."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.measure.classification import label_scores, multi_label_scores

MAX_CHARACTERS = 3_000_000  # of text, for which n-grams of characters take seconds and not minutes

FIRST_ROWS, MORE_ROWS = 2000, 4  # that are fitted first in limited time; at most so many times as many next
CHARACTER_COST = 1.25  # a row among more rows: they have more words

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Proposal = Callable[[Sequence[str]], Floats]  # texts to probabilities [N, L]


@dataclass(frozen=True)
class TimeLimit:
    """Seconds that all baselines may take together, by a clock."""

    seconds: float = math.inf
    clock: Callable[[], float] = time.monotonic


def majority(train: Ints, labels: int) -> Proposal:
    """Gives every text the commonest label (with several labels, those that more than half of the texts
    have)."""
    if train.ndim == 2:
        row = (train.mean(0) > 0.5).astype(np.float64)
    else:
        row = np.zeros(labels)
        row[np.bincount(train, minlength=labels).argmax()] = 1.0
    return lambda texts: np.broadcast_to(row, (len(texts), len(row)))


def bag_of_words(
    train: Sequence[str], answers: Ints, seed: int, limit: TimeLimit | None = None
) -> dict[str, Proposal]:
    """Logistic regression on TF-IDF of words and pairs of words and, for texts that are not too many, of 2 to
    5 characters; empty without scikit-learn. In limited time it learns from some of the rows, drawn by
    chance, and its name says from how many."""
    try:
        import sklearn.feature_extraction.text  # noqa: F401
    except ImportError:
        return {}
    limit = limit or TimeLimit()
    kinds: dict[str, dict[str, Any]] = {"words": {"ngram_range": (1, 2)}}
    if sum(map(len, train)) <= MAX_CHARACTERS:
        kinds["characters"] = {"analyzer": "char_wb", "ngram_range": (2, 5)}
    found = {}
    for name, options in kinds.items():
        each = TimeLimit(limit.seconds / len(kinds), limit.clock)
        guess, rows = _fit_in_time(partial(_fitted, train, answers, options, seed), len(train), seed, each)
        of = "" if rows == len(train) else f" ({rows:,} of {len(train):,} rows)"
        if guess is not None:
            found[f"tf-idf {name}{of}"] = guess
    return found


def _fit_in_time(
    fit: Callable[[Ints], Proposal | None], count: int, seed: int, limit: TimeLimit
) -> tuple[Proposal | None, int]:
    """What is fitted on as many of `count` rows as the time allows, and their number: a few first, then more
    by what these took."""
    order = np.random.default_rng(seed).permutation(count)
    rows, begin = count if math.isinf(limit.seconds) else min(count, FIRST_ROWS), limit.clock()
    while True:
        before = limit.clock()
        guess = fit(np.sort(order[:rows]))
        now = limit.clock()
        row_seconds = CHARACTER_COST * max(now - before, 1e-9) / rows
        more = (
            min(count, MORE_ROWS * rows, int((limit.seconds - (now - begin)) / row_seconds))
            if rows < count
            else 0
        )
        if more < min(count, 2 * rows):
            return guess, rows
        rows = more


def scores(guess: Floats, truth: Ints) -> dict[str, float]:
    """How good probabilities [N, L] are: the figures that the report has of the model too."""
    return _rounded(multi_label_scores(guess, truth)) if truth.ndim == 2 else _scores(guess, truth)


def _fitted(
    train: Sequence[str], answers: Ints, options: Mapping[str, Any], seed: int, some: Ints
) -> Proposal | None:
    """Fitted on `some` of the rows; None for texts without a single word, or rows that all have one label."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    features: Any = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(some) >= 1000 else 1, **options)
    model: Any = LogisticRegression(C=4.0, max_iter=1000, random_state=seed)
    several = answers.ndim == 2
    if several:
        model = OneVsRestClassifier(model)
    try:
        model.fit(features.fit_transform([train[number] for number in some]), answers[some])
    except ValueError:
        return None
    labels = answers.shape[1] if several else int(answers.max()) + 1

    def guess(texts: Sequence[str]) -> Floats:
        found = model.predict_proba(features.transform(texts))
        if several:
            return np.asarray(found, dtype=np.float64)
        whole = np.zeros((len(texts), labels))
        whole[:, model.classes_] = found
        return whole

    return guess


def _scores(guess: Floats, truth: Ints) -> dict[str, float]:
    guess = np.pad(guess, ((0, 0), (0, max(0, int(truth.max()) + 1 - guess.shape[1]))))
    found = label_scores(guess, truth)
    return _rounded({"accuracy": found.accuracy, "macro_f1": found.macro_f1, "matthews": found.matthews})


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
