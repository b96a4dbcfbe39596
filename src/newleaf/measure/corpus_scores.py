"""Figures of a whole set of written texts beside good ones, from 0 to 100: what training chooses its best
checkpoint by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from newleaf.measure.text_metrics import ROUGE, corpus_score, rouge

TextMetric = Literal["bleu", "chrf", "rouge", "exact"]


def text_metric(
    name: TextMetric, texts: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Figures of a whole set, the one that counts first. Every text has one or more references.

    Raises InputError without the package that measures it.
    """
    if name in ("bleu", "chrf"):
        return {name: corpus_score(name, texts, references, resamples=1)[0]}
    if name == "rouge":
        scores = [rouge(text, known) for text, known in zip(texts, references, strict=True)]
        return {
            kind: 100 * sum(score[kind] for score in scores) / max(1, len(scores)) for kind in reversed(ROUGE)
        }
    hits = [
        text.strip() in [good.strip() for good in known]
        for text, known in zip(texts, references, strict=True)
    ]
    return {"exact": 100 * sum(hits) / max(1, len(hits))}


def headline(name: TextMetric) -> str:
    """The figure of a metric that counts."""
    return "rougeL" if name == "rouge" else name
