"""What the scores of texts are resampled over: documents where there are enough, and otherwise windows, in
blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from newleaf.evaluation.statistics import MIN_ITEMS, Array, Difference, block_of, compare
from newleaf.evaluation.task import Marks, Metric

PART = ("nats", "bits", "tokens", "bytes", "words")  # of a window

Parts = Sequence[Sequence[Marks]]  # each document's windows


def units(documents: Sequence[Marks], parts: Parts) -> tuple[Sequence[Marks], int]:
    """The marks to resample, and how many of them that follow one another are drawn together."""
    windows = [window for document in parts for window in document]
    if len(documents) >= MIN_ITEMS or len(windows) <= len(documents):
        return documents, 1
    return windows, block_of(len(windows))


def compare_texts(
    measure: Metric, one: tuple[Sequence[Marks], Parts], other: tuple[Sequence[Marks], Parts]
) -> Difference | None:
    """Two models' marks of the same documents compared: by documents, or by stretches of them as long as the
    longer windows are. None where the two do not count the same things, such as the tokens of different
    tokenizers."""
    weight = str(measure.weight)
    (ours, our_parts), (theirs, their_parts) = one, other
    if any(not np.isclose(a[weight], b[weight]) for a, b in zip(ours, theirs, strict=True)):
        return None
    if len(ours) >= MIN_ITEMS:
        return compare(
            [a[measure.mark] for a in ours], [b[measure.mark] for b in theirs], [a[weight] for a in ours]
        )
    rows = [
        _aligned(*(np.array([(each[measure.mark], each[weight]) for each in parts], float) for parts in pair))
        for pair in zip(our_parts, their_parts, strict=True)
    ]
    table = np.concatenate(rows)
    block = block_of(len(table)) if len(table) >= MIN_ITEMS else 1
    found = compare(table[:, 0].tolist(), table[:, 1].tolist(), table[:, 2].tolist(), block=block)
    return (
        found
        if block == 1
        else Difference(found.value, found.low, found.high, found.p, f"{found.test} windows", found.n)
    )


def _aligned(one: Array, other: Array) -> Array:
    """Windows [N, 2] and [M, 2] of (mark, weight) over one document as rows (mark of one, mark of the other,
    weight) of the same stretches of it: those of whichever has fewer windows. Inside a window of the other,
    its mark is taken to grow evenly."""
    edges = np.concatenate([[0.0], np.cumsum((one if len(one) <= len(other) else other)[:, 1])])
    columns = []
    for table in (one, other):
        ends = np.concatenate([np.zeros((1, 2)), np.cumsum(table, 0)])
        columns.append(
            np.diff(np.interp(edges, ends[:, 1] * edges[-1] / max(ends[-1, 1], 1e-12), ends[:, 0]))
        )
    return np.stack([*columns, np.diff(edges)], axis=1)
