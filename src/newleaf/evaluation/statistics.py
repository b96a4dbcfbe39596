"""How sure a score is, and whether two models differ: bootstrap over items (Efron 1979) and McNemar's exact
test (McNemar 1947)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95
AT_ONCE = 4_000_000  # drawn places held at once
MIN_ITEMS = 20  # items, or windows, below which resampling says too little about a difference
SEED = 20_190_214

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A score over `n` items, its standard error, and the ends of its 95 % bootstrap interval."""

    value: float
    stderr: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """What model A has over model B on the same items: A's score minus B's, its 95 % interval, the chance of
    at least as much from models that do not differ, how that was found, and (for answers that are right or
    wrong) how many items only A and only B got right. `p` is None where the items are too few to tell."""

    value: float
    low: float
    high: float
    p: float | None
    test: str
    n: int
    only_a: int | None = None
    only_b: int | None = None

    @property
    def real(self) -> bool | None:
        """Whether chance alone would rarely show as much: p below 5 %. None where nothing can be said."""
        return None if self.p is None else self.p < 1 - CONFIDENCE


def ratio_of_means(sums: Array) -> Array:
    """[R, 2] sums over items → the first over the second: a mean where the second counts items, bits per byte
    where it counts bytes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def estimate(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    finish: Callable[[Array], Array] = lambda x: x,
    resamples: int = RESAMPLES,
    block: int = 1,
) -> Estimate:
    """finish(Σ values / Σ weights) with its bootstrap interval; without weights each item counts 1. `block`
    items that follow one another are drawn together, for items that are like their neighbours.

    The standard error of a plain mean is the usual one, s / √n with s² over n − 1; otherwise it is the
    bootstrap's standard deviation. Raises ValueError without items.
    """
    if not len(values):
        raise ValueError("no items to score")
    pairs = np.stack(
        [np.asarray(values, float), np.ones(len(values)) if weights is None else np.asarray(weights, float)],
        axis=1,
    )
    value = float(finish(ratio_of_means(pairs.sum(0, keepdims=True)))[0])
    drawn = finish(ratio_of_means(_resampled_sums(pairs, resamples, block)))
    low, high = interval_of(drawn)
    plain = weights is None and finish(np.array([0.3]))[0] == 0.3
    error = (
        float(pairs[:, 0].std(ddof=1) / math.sqrt(len(pairs))) if plain and len(pairs) > 1 else _spread(drawn)
    )
    return Estimate(value, error, low, high, len(pairs))


def _spread(drawn: Array) -> float:
    """The standard deviation, whose squares do not overflow: the perplexity of words has no upper bound."""
    most = float(np.nanmax(np.abs(drawn)))
    return most * float(np.nanstd(drawn / most)) if 0 < most < math.inf else float("nan") if most else 0.0


def compare(
    a: Sequence[float],
    b: Sequence[float],
    weights: Sequence[float] | None = None,
    finish: Callable[[Array], Array] = lambda x: x,
    resamples: int = RESAMPLES,
    block: int = 1,
) -> Difference:
    """Two models on the same items, in the same order: McNemar's exact test where every answer is right (1)
    or wrong (0), and otherwise the paired bootstrap, whose p is twice the share of resamples in which the
    difference has the other sign (Koehn 2004). With `block`, so many items that follow one another are drawn
    together (the circular block bootstrap of Politis and Romano 1992)."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"{len(a)} and {len(b)} items cannot be compared one by one")
    count = np.ones(len(a)) if weights is None else np.asarray(weights, float)
    both = np.stack([np.asarray(a, float), np.asarray(b, float), count], axis=1)

    def differences(sums: Array) -> Array:
        return finish(sums[:, 0] / sums[:, 2]) - finish(sums[:, 1] / sums[:, 2])

    value = float(differences(both.sum(0, keepdims=True))[0])
    drawn = differences(_resampled_sums(both, resamples, block))
    low, high = interval_of(drawn)
    if weights is None and set(np.unique(both[:, :2])) <= {0.0, 1.0}:
        only_a, only_b = (
            int(((both[:, 0] == 1) & (both[:, 1] == 0)).sum()),
            int(((both[:, 0] == 0) & (both[:, 1] == 1)).sum()),
        )
        return Difference(
            value, low, high, mcnemar(only_a, only_b), "McNemar's exact test", len(a), only_a, only_b
        )
    against = float(((drawn <= 0) if value > 0 else (drawn >= 0)).mean())
    p = 1.0 if value == 0 else min(1.0, max(2 * against, 1 / resamples))
    test = "paired bootstrap" if block == 1 else f"paired bootstrap of blocks of {block}"
    return Difference(value, low, high, p if len(a) >= MIN_ITEMS else None, test, len(a))


def block_of(count: int) -> int:
    """How many neighbours to draw together of so many that follow one another: the cube root, at which the
    error of a standard error shrinks fastest (Hall, Horowitz and Jing 1995)."""
    return max(1, math.ceil(math.cbrt(count)))


def mcnemar(only_a: int, only_b: int) -> float:
    """The chance that a fair coin splits the items that just one model got right at least as unevenly:
    two-sided exact binomial."""
    total, few = only_a + only_b, min(only_a, only_b)
    if not total:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * sum(math.exp(each) for each in logs))


def _resampled_sums(columns: Array, resamples: int, block: int = 1) -> Array:
    """Sums [resamples, C] over rows [N, C] drawn with replacement; the same draws for every score of so many
    items. With `block`, what is drawn are runs of so many rows, the first following the last."""
    if block > 1:
        starts = np.arange(len(columns))[:, None] + np.arange(block)
        columns = columns[starts % len(columns)].sum(1)
        draws = max(1, round(len(columns) / block))
    else:
        draws = len(columns)
    generator, count = np.random.default_rng(SEED), len(columns)
    step = max(1, AT_ONCE // draws)
    parts = [
        columns[generator.integers(0, count, (min(step, resamples - first), draws))].sum(1)
        for first in range(0, resamples, step)
    ]
    return np.asarray(np.concatenate(parts))


def interval_of(drawn: Array) -> tuple[float, float]:
    """The ends of the middle 95 % of what was drawn."""
    tail = (1 - CONFIDENCE) / 2
    drawn = drawn[np.isfinite(drawn)]  # a draw may hold no item that counts
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
