"""What a round costs: seconds of a step by its texts and rows, measured while writing, and how many proposals
are worth theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

ROW_COST = 0.3  # of a one-row step: what a row more costs, as long as nothing has been measured
SMOOTHING = 8  # a new figure weighs 1/8
OUTLIER_FACTOR = 2.0  # times what is expected: more is taken for the machine being busy with something else
MARGIN = 1.02  # proposals must promise so much, since the figures are not exact


class StepCost:
    """Measured seconds of a network's steps."""

    def __init__(self) -> None:
        # texts → rows → seconds, and how often they were measured
        self._tables: dict[int, dict[int, tuple[float, int]]] = {}
        self.sampling_seconds = 0.0  # seconds that the choice of a token takes once its logits are there

    @property
    def known(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._tables)

    def record(self, texts: int, rows: int, seconds: float) -> None:
        """A step of so many rows, which belonged to so many texts, took so long."""
        table = self._tables.setdefault(texts, {})
        before, count = table.get(rows, (seconds, 0))
        count = min(count + 1, SMOOTHING)
        table[rows] = before + (min(seconds, OUTLIER_FACTOR * before) - before) / count, count

    def record_sampling(self, tokens: int, seconds: float) -> None:
        each = seconds / tokens
        before = self.sampling_seconds or each
        self.sampling_seconds = before + (min(each, OUTLIER_FACTOR * before) - before) / SMOOTHING

    def seconds(self, texts: int, rows: int) -> float:
        """What a step of so many rows takes; between and beyond measured ones along a line. In no unit while
        nothing is measured."""
        table = self._tables.get(texts) or next(iter(self._tables.values()), {})
        if rows in table:
            return table[rows][0]
        less, more = (
            max((n for n in table if n < rows), default=0),
            min((n for n in table if n > rows), default=0),
        )
        if less and more:
            return table[less][0] + (table[more][0] - table[less][0]) * (rows - less) / (more - less)
        known = less or more
        return (
            table[known][0] * unmeasured_cost(rows) / unmeasured_cost(known)
            if known
            else unmeasured_cost(rows)
        )

    def row_seconds(self, texts: int, rows: int) -> float:
        """What one row more takes, on average over the next four: rows are cheapest by fours."""
        return max(0.0, self.seconds(texts, rows + 4) - self.seconds(texts, rows)) / 4

    def best_count(
        self,
        texts: int,
        rows: int,
        probabilities: Sequence[float],
        each: Callable[[int], float] = lambda _: 0.0,
    ) -> tuple[int, float]:
        """How many of some proposals make the round worth most tokens a second, and how many those are; no
        proposals are 0.

        The round has so many `texts` and `rows` without them and gives a token for each text; the j-th
        proposal comes true with `chances[j]` (all before it too); making k proposals takes `each(k)` seconds.
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
    return 1 + ROW_COST * (rows - 1)
