"""What a classifier should beat: the commonest label, and a bag of words with logistic regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from newleaf.measure.classification import label_scores, multi_label_scores

MOST_CHARACTERS = 3_000_000  # of text, for which n-grams of characters take seconds and not minutes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def majority(train: Ints, rows: int, labels: int) -> Floats:
    """Probabilities [rows, L] that give every text the commonest label (with several labels, those that more than half of the texts
    have)."""
    if train.ndim == 2:
        return np.broadcast_to((train.mean(0) > 0.5).astype(np.float64), (rows, train.shape[1]))
    counts = np.bincount(train, minlength=labels)
    guess = np.zeros((rows, labels))
    guess[:, counts.argmax()] = 1.0
    return guess


def bag_of_words(train: Sequence[str], answers: Ints, test: Sequence[str], seed: int) -> dict[str, Floats]:
    """Probabilities [N, L] by logistic regression on TF-IDF of words and pairs of words and, for texts that are not too many, of 2 to 5
    characters; empty without scikit-learn."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        return {}
    kinds: dict[str, dict[str, Any]] = {"words": {"ngram_range": (1, 2)}}
    if sum(map(len, train)) <= MOST_CHARACTERS:
        kinds["characters"] = {"analyzer": "char_wb", "ngram_range": (2, 5)}
    found = {}
    for name, options in kinds.items():
        try:
            features = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(train) >= 1000 else 1, **options)
            inputs, asked = features.fit_transform(train), features.transform(test)
        except ValueError:  # texts without a single word
            continue
        found[f"tf-idf {name}"] = _fitted(inputs, answers, asked, seed)
    return found


def scores(guess: Floats, truth: Ints) -> dict[str, float]:
    """How good probabilities [N, L] are: the figures that the report has of the model too."""
    return _rounded(multi_label_scores(guess, truth)) if truth.ndim == 2 else _scores(guess, truth)


def _fitted(inputs: Any, answers: Ints, asked: Any, seed: int) -> Floats:
    """Probabilities [N, L] of the rows that are asked."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    model: Any = LogisticRegression(C=4.0, max_iter=1000, random_state=seed)
    if answers.ndim == 2:
        several: Floats = OneVsRestClassifier(model).fit(inputs, answers).predict_proba(asked)
        return several
    model.fit(inputs, answers)
    guess = np.zeros((asked.shape[0], int(answers.max()) + 1))
    guess[:, model.classes_] = model.predict_proba(asked)
    return guess


def _scores(guess: Floats, truth: Ints) -> dict[str, float]:
    guess = np.pad(guess, ((0, 0), (0, max(0, int(truth.max()) + 1 - guess.shape[1]))))
    found = label_scores(guess, truth)
    return _rounded({"accuracy": found.accuracy, "macro_f1": found.macro_f1, "matthews": found.matthews})


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}
