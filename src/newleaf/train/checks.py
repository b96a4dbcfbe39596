"""The looks at a network on the way: over how many rows, how long samples may take, and what time must be kept for the last look."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from torch import nn

from newleaf.train.course import Course, Figures
from newleaf.train.monitor import Monitor
from newleaf.train.ranks import Ranks
from newleaf.train.run_folder import RunFolder
from newleaf.train.schedule import ClockSchedule

CHECKS = 10  # validations of a run whose recipe does not say
SAMPLE_SHARE = 0.009  # of a timed run, for the text it writes on the way
WORTHWHILE = 0.5  # of the first sample's time: shorter ones wait for the next validation
FIRST_SAMPLE = 0.4  # of that share, for what the untrained network writes
CHECK_SHARE = 0.03  # of a timed run, for the validations on the way
FEWEST_ROWS = 16  # of such a validation
LOOKS = 3  # that the pace of the last one is foretold by
PLOTTED = 0.3  # seconds, until the first plot is measured
EXIT_SECONDS = 0.3  # what Python takes to end after the last line, and some room

Sample = tuple[str, str]  # a prompt and what came of it


class Checks:
    """Asks the course's examiner, and keeps the clock's reserve. `rows` is what each validation on the way looks at."""

    def __init__(
        self, course: Course, network: nn.Module, heed: Callable[[], None], ranks: Ranks, clock: ClockSchedule | None,
        folder: RunFolder, monitor: Monitor,
    ) -> None:  # fmt: skip
        self.course, self.ranks, self.clock, self.folder, self.monitor = course, ranks, clock, folder, monitor
        self.examiner = course.examiner(network, heed, ranks)
        self.rows = 0  # not chosen yet
        self.paces: deque[float] = deque(maxlen=LOOKS)  # seconds for each row
        self.sample_seconds = 0.0
        self.first_sample = 0.0  # seconds
        self.plot_seconds = PLOTTED

    @property
    def row_seconds(self) -> float:
        """What a row takes, by the last looks; 0 before the first. Other work on the machine may have been in the way of one of them."""
        return statistics.median(self.paces) if self.paces else 0.0

    @property
    def sees_all(self) -> bool:
        """Whether the looks on the way are at the whole validation set."""
        return self.rows >= self.examiner.all_rows

    @property
    def looks_again(self) -> bool:
        """Whether the best weights are still to be looked at when the training is over."""
        return not self.sees_all or self.examiner.reports > 0

    def look(self, rows: int | None, to_the_end: bool = False) -> Figures:
        """Validate on this many rows, or on all."""
        begin = time.monotonic()
        found = self.examiner.validate(rows, to_the_end)
        self.paces.append(self.ranks.of_first(time.monotonic() - begin) / (rows or self.examiner.all_rows))
        return found

    def choose_rows(self) -> None:
        """By the clock, validations on the way must stay cheap: as many rows as a small share of the time allows, measured once."""
        wanted = self.rows or min(self.course.train.eval_windows, self.examiner.all_rows)
        if self.clock is not None:
            few = min(FEWEST_ROWS, wanted)
            self.look(few)
            self.paces.clear()  # the first one warms up
            self.look(few)
            affordable = int(CHECK_SHARE * self.clock.length / CHECKS / max(self.row_seconds, 1e-9))
            wanted = self.rows or min(wanted, max(few, affordable))
            self.rows = wanted
            self.reserve(0.0)
        self.rows = wanted

    def reserve(self, check_seconds: float) -> None:
        """Keep time for the end: one check more, the whole validation set where no check sees it, and a plot."""
        if self.clock is None:
            return
        check_seconds = max(self.ranks.of_first(check_seconds), self.row_seconds * self.rows)
        last_look = self.row_seconds * (self.examiner.all_rows + self.examiner.reports) if self.looks_again else 0.0
        self.clock.reserve = check_seconds + last_look + self.ranks.of_first(self.plot_seconds) + EXIT_SECONDS

    def samples(self, step: int) -> list[Sample]:
        """What the network makes of each prompt; in a timed run for a small share of it, so fewer times and at last less."""
        prompts, found = self.examiner.prompts, []
        done = self.clock.progress(step) if self.clock is not None and step else 0.0
        if self.clock is not None and done < 1 and self._sampling_left(done) < (WORTHWHILE * self.first_sample if step else 0.0):
            return []
        for number, prompt in enumerate(prompts):
            begin = time.monotonic()
            found.append((prompt, self.examiner.sample(prompt, self._sampling_left(done) / (len(prompts) - number))))
            self.sample_seconds += self.ranks.of_first(time.monotonic() - begin)
        self.first_sample = self.first_sample or self.sample_seconds
        return found

    def _sampling_left(self, done: float) -> float:
        """Seconds that samples may take now; without a clock, as long as they take."""
        if self.clock is None:
            return math.inf
        return SAMPLE_SHARE * self.clock.length * (FIRST_SAMPLE + (1 - FIRST_SAMPLE) * done) - self.sample_seconds

    def record(self, step: int, found: Figures) -> None:
        """A validation's line in metrics.jsonl, without what is not finite."""
        self.folder.record(step=step, **{name: value for name, value in found.items() if math.isfinite(value)}, val_windows=self.rows)

    def record_samples(self, step: int, samples: list[Sample]) -> None:
        for prompt, text in samples:
            self.folder.record(step=step, prompt=prompt, sample=text)
            self.monitor.sample(step, prompt, text)

    def tell(self, step: int, found: Figures) -> None:
        """Show the figure that counts."""
        self.monitor.validation(step, found[self.course.measure.key], self.course.measure.words)

    def better(self, found: Figures, best: Figures | None) -> bool:
        """Whether these figures are finite and better than the best."""
        measure = self.course.measure
        value = found[measure.key]
        return math.isfinite(value) and (best is None or measure.better(value, best[measure.key]))
