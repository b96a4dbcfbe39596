"""The looks at a network on the way: over how many rows, and what time must be kept for the last look."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.samples import Sample, Samples
from newleaf.train.loop.validation_plan import VALIDATIONS, WARM_UP_ROWS, plan_validation, probe_rows
from newleaf.train.objective.objective import Objective, ValidationMetrics
from newleaf.train.objective.schedule import ClockSchedule
from newleaf.train.runs.run_folder import RunFolder

# of a timed run, for what comes after the last step: training has the other half, whatever a look may take
MAX_RESERVED_SHARE = 0.5
RECENT_VALIDATIONS = 3  # that the pace of the last one is foretold by
FIRST_PLOT_SECONDS = 0.3  # seconds, until the first plot is measured
EXIT_SECONDS = 0.3  # what Python takes to end after the last line, and some room


class Validation:
    """Asks the objective's evaluator, and keeps the clock's reserve.

    `rows` is what each of `count` validations on the way looks at. The figures that stand before and after
    the training are over `final_rows`, the same ones both times, and the report reads `report_rows`: all
    there are, unless the time allows no more.
    """

    def __init__(
        self, objective: Objective, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks,
        clock: ClockSchedule | None, folder: RunFolder, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.objective, self.ranks, self.clock, self.folder, self.monitor = (
            objective,
            ranks,
            clock,
            folder,
            monitor,
        )
        self.evaluator = objective.evaluator(network, check_stop, ranks)
        self.rows = 0  # not chosen yet
        self.count = VALIDATIONS
        self.final_rows, self.report_rows = self.evaluator.all_rows, int(self.evaluator.reports)
        self.final_seconds = 0.0  # of the last look at the closing rows
        self.row_times: deque[float] = deque(maxlen=RECENT_VALIDATIONS)  # seconds for each row
        self.samples = Samples(self.evaluator, ranks, clock, monitor)
        self.plot_seconds = FIRST_PLOT_SECONDS

    @property
    def row_seconds(self) -> float:
        """What a row takes, by the last looks; 0 before the first.

        Other work on the machine may have been in the way of one of them.
        """
        return statistics.median(self.row_times) if self.row_times else 0.0

    @property
    def validates_at_end(self) -> bool:
        """Whether the best weights are still to be looked at when the training is over."""
        return self.rows < self.final_rows or self.evaluator.reports > 0

    @property
    def covers_validation_set(self) -> bool:
        """Whether the closing figures are over the whole validation set, and the report over all of its
        rows."""
        return self.final_rows >= self.evaluator.all_rows and self.report_rows >= self.evaluator.reports

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """Validate on this many rows, or on all."""
        begin = self.ranks.clock()
        found = self.evaluator.validate(rows, to_the_end)
        self.row_times.append(
            self.ranks.from_rank_zero(self.ranks.clock() - begin) / (rows or self.evaluator.all_rows)
        )
        return found

    def final_validation(self) -> ValidationMetrics:
        """The figures that stand before and after."""
        begin = self.ranks.clock()
        found = self.validate(self.final_rows)
        self.final_seconds = self.ranks.from_rank_zero(self.ranks.clock() - begin)
        return found

    def set_rows(self, rows: int, closing: tuple[int, int]) -> None:
        """Look at as many rows as an earlier part of the run did, or the run that is repeated.

        Zeros leave it open.
        """
        self.rows = rows
        self.final_rows, self.report_rows = closing[0] or self.final_rows, closing[1] or self.report_rows

    def state_dict(self) -> dict[str, Any]:
        """The numbers of rows, for a checkpoint."""
        return {"windows": self.rows, "closing": [self.final_rows, self.report_rows]}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Take a checkpoint's numbers of rows; those of older releases have no "closing"."""
        self.set_rows(values["windows"], tuple(values.get("closing", (0, 0))))

    def choose_rows(self) -> None:
        """How many rows each look has: what the recipe says, and by the clock no more than leaves training
        its time; measured once."""
        wanted = min(self.objective.train.eval_windows, self.evaluator.all_rows)
        if self.clock is None:
            self.rows = self.rows or wanted
            return
        # which takes longer than any other: kernels may be compiled in it
        self.validate(min(WARM_UP_ROWS, wanted))
        self.row_times.clear()
        self.validate(1)
        single = self.row_seconds
        probe = probe_rows(self.clock.length, single, wanted)
        for _ in range(2):
            self.row_times.clear()
            self.validate(probe)
            # many rows at once are slower than one alone only where they were the first
            if self.row_seconds <= single:
                break
        looks = 2 if self.objective.validates_before_training else 1
        found = plan_validation(
            self.clock.length, self.row_seconds, wanted, self.final_rows, self.report_rows, looks
        )
        self.count = found.validations
        if not self.rows:  # a run that goes on keeps what it had
            # A single check, which is the one at the end, is the last validation itself.
            alone = found.validations == 1 and not self.objective.train.eval_every
            self.rows, self.final_rows = found.final_rows if alone else found.rows, found.final_rows
            self.report_rows = found.report_rows
            self._announce_subset()
        self.reserve(0.0)

    def _announce_subset(self) -> None:
        """Where the closing figures are not over all rows: for people, and for whoever repeats the run."""
        if self.covers_validation_set:
            return
        seen, of = self.final_rows + self.report_rows, self.evaluator.all_rows + self.evaluator.reports
        self.monitor.say(
            f"Validation uses {self.final_rows:,} of {self.evaluator.all_rows:,} held-out rows, the same "
            f"ones before and after training: "
            f"all would take about {of * self.row_seconds:.1f} s, these {seen * self.row_seconds:.1f} s."
        )
        self.folder.record(step=0, closing_windows=self.final_rows, report_rows=self.report_rows)

    def reserve(self, check_seconds: float) -> None:
        """Keep time for the end: one check more, the closing figures where no check has them, the report and
        a plot."""
        if self.clock is None:
            return
        check_seconds = max(self.ranks.from_rank_zero(check_seconds), self.row_seconds * self.rows)
        last_look = 0.0
        if self.validates_at_end:
            last_look = (
                max(self.final_seconds, self.row_seconds * self.final_rows)
                + self.row_seconds * self.report_rows
            )
        kept = (
            check_seconds
            + self.samples.reserve()
            + last_look
            + self.ranks.from_rank_zero(self.plot_seconds)
            + EXIT_SECONDS
        )
        self.clock.reserve = min(kept, MAX_RESERVED_SHARE * self.clock.length)

    def record(self, step: int, found: ValidationMetrics, rows: int | None = None) -> None:
        """A validation's line in metrics.jsonl, without what is not finite."""
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        self.folder.record(step=step, **finite, val_windows=rows or self.rows)

    def record_samples(self, step: int, samples: list[Sample]) -> None:
        for prompt, text in samples:
            self.folder.record(step=step, prompt=prompt, sample=text)
            self.monitor.sample(step, prompt, text)

    def tell(self, step: int, found: ValidationMetrics) -> None:
        """Show the figure that counts, and what it is of, where that is a sample of the held-out rows."""
        words, count = self.objective.measure.words, self.evaluator.all_rows
        if self.rows < count:
            words = f"{words} (a sample: {self.rows:,} of {count:,} held-out windows)"
        self.monitor.validation(step, found[self.objective.measure.key], words)

    def better(self, found: ValidationMetrics, best: ValidationMetrics | None) -> bool:
        """Whether these figures are finite and better than the best."""
        measure = self.objective.measure
        value = found[measure.key]
        return math.isfinite(value) and (best is None or measure.better(value, best[measure.key]))
