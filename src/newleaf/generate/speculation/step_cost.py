"""Measured seconds of a step, by its sequences and rows, and the number of proposals that pays best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ROW_COST = 0.3  # of a step with one row: the assumed cost of each further row before any is measured
SMOOTHING = 8  # a new measurement weighs 1/8
OUTLIER_FACTOR = 2.0  # times the expected seconds: more is taken for interference by other programs
MARGIN = 1.02  # required gain of proposals, since measurements are not exact


class StepCost:
    """Measured seconds of a network's steps."""

    def __init__(self) -> None:
        # sequences → rows → seconds, and how often they were measured
        self._tables: dict[int, dict[int, tuple[float, int]]] = {}
        self.sampling_seconds = 0.0  # for one token, from its logits

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._tables)

    def record(self, texts: int, rows: int, seconds: float) -> None:
        """A step of `rows` rows, which belonged to `texts` sequences, took so many seconds."""
        table = self._tables.setdefault(texts, {})
        before, count = table.get(rows, (seconds, 0))
        count = min(count + 1, SMOOTHING)
        table[rows] = before + (min(seconds, OUTLIER_FACTOR * before) - before) / count, count

    def record_sampling(self, tokens: int, seconds: float) -> None:
        """Sampling so many tokens took so many seconds."""
        each = seconds / tokens
        before = self.sampling_seconds or each
        self.sampling_seconds = before + (min(each, OUTLIER_FACTOR * before) - before) / SMOOTHING

    def seconds(self, texts: int, rows: int) -> float:
        """Seconds of a step, interpolated between measured rows; relative before any is measured."""
        table = self._tables.get(texts) or next(iter(self._tables.values()), {})
        if rows in table:
            return table[rows][0]
        below, above = (
            max((n for n in table if n < rows), default=0),
            min((n for n in table if n > rows), default=0),
        )
        if below and above:
            return table[below][0] + (table[above][0] - table[below][0]) * (rows - below) / (above - below)
        known = below or above
        return (
            table[known][0] * unmeasured_cost(rows) / unmeasured_cost(known)
            if known
            else unmeasured_cost(rows)
        )

    def row_seconds(self, texts: int, rows: int) -> float:
        """Seconds of one more row, averaged over the next four: kernels take rows by fours."""
        return max(0.0, self.seconds(texts, rows + 4) - self.seconds(texts, rows)) / 4

    def best_count(
        self,
        texts: int,
        rows: int,
        probabilities: Sequence[float],
        each: Callable[[int], float] = lambda _: 0.0,
    ) -> tuple[int, float]:
        """The number of proposals that gives most tokens a second, and that rate; (0, 0) where none pays.

        Without proposals the step has `texts` sequences and `rows` rows, and gives a token for each sequence.
        `probabilities[j]` is that the first j + 1 proposals are accepted; making k takes `each(k)` seconds.
        """
        gain, best = float(texts), 0
        most = MARGIN * gain / (self.seconds(texts, rows) + self.sampling_seconds * gain)
        for count, probability in enumerate(probabilities, 1):
            gain += probability
            rate = gain / (self.seconds(texts, rows + count) + self.sampling_seconds * gain + each(count))
            if rate > most:
                most, best = rate, count
        return best, most


def unmeasured_cost(rows: int) -> float:
    """The cost of a step before any is measured; a step with one row has 1."""
    return 1 + ROW_COST * (rows - 1)
