"""What the network writes at each validation: for a small share of a timed run, and either enough to read or
nothing, with a word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import Evaluator, SampledText
from newleaf.train.objective.schedule import ClockSchedule

SHARE = 0.02  # of a timed run, for the text it writes on the way
LAST = 0.5  # of that share, for what it writes at the end: a few lines, also where the run is short
FIRST = 0.2  # of that share, for what the untrained network writes
MIN_TIME_SHARE = 0.5  # of the first sample's time: shorter ones wait for the next validation
MIN_READABLE_CHARACTERS = 32  # characters; a text that was cut off before says nothing
# of a timed run, for the last samples, where the machine takes so long for a readable text
MAX_LAST_SHARE = 0.05

Sample = tuple[str, str]  # a prompt and what came of it


class Samples:
    """Asks the evaluator for texts, as long as the clock's run may take for them.

    Without a clock, as long as they take.
    """

    def __init__(
        self, evaluator: Evaluator, ranks: Ranks, clock: ClockSchedule | None, monitor: Monitor
    ) -> None:
        self.evaluator, self.ranks, self.clock, self.monitor = evaluator, ranks, clock, monitor
        self.taken = 0  # times that there were samples
        self.seconds = 0.0  # of all so far
        self.first = 0.0  # seconds that the first ones took
        # that `MIN_READABLE_CHARACTERS` characters take, by the last text; 0 before it
        self.readable_seconds = 0.0
        self.told = False

    def count(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Go on after the samples that a run's metrics hold."""
        self.taken = len({line["step"] for line in lines if "sample" in line})

    def reserve(self) -> float:
        """Seconds to keep for those at the end of a timed run."""
        if self.clock is None or not self.evaluator.prompts:
            return 0.0
        wanted = len(self.evaluator.prompts) * self.readable_seconds
        return max(LAST * SHARE * self.clock.length, min(wanted, MAX_LAST_SHARE * self.clock.length))

    def take(self, step: int) -> list[Sample]:
        """What the network makes of each prompt now.

        In a timed run there are fewer times, and texts that end early; none that nobody could read.
        """
        prompts = self.evaluator.prompts_at(self.taken) if self.evaluator.prompts else ()
        done = self.clock.progress(step) if self.clock is not None and step else 0.0
        if not prompts or (step and done < 1 and self._left(done) < MIN_TIME_SHARE * self.first):
            return []
        if self._left(done) < len(prompts) * self.readable_seconds:
            return self._left_out(step, done)
        found: list[Sample] = []
        for number, prompt in enumerate(prompts):
            begin = self.ranks.clock()
            written = self.evaluator.sample(prompt, max(0.0, self._left(done)) / (len(prompts) - number))
            took = self.ranks.from_rank_zero(self.ranks.clock() - begin)
            self.seconds += took
            self._measure(written, took)
            if not written.cut or len(written.text) >= MIN_READABLE_CHARACTERS:
                found.append((prompt, written.text))
        self.first = self.first or self.seconds
        self.taken += bool(found)
        return found or self._left_out(step, done)

    def _measure(self, written: SampledText, seconds: float) -> None:
        """What a readable text takes, where enough came of this one to tell."""
        if self.clock is not None and written.writes:
            self.readable_seconds = (
                seconds * max(1.0, MIN_READABLE_CHARACTERS / max(1, len(written.text)))
                if written.cut
                else 0.0
            )

    def _left(self, done: float) -> float:
        """Seconds that samples may take now."""
        if self.clock is None:
            return math.inf
        if done >= 1:
            return max(SHARE * self.clock.length - self.seconds, self.reserve())
        return SHARE * self.clock.length * (FIRST + (1 - LAST - FIRST) * done) - self.seconds

    def _left_out(self, step: int, done: float) -> list[Sample]:
        """None this time. Said where there were none before, once, and at the end."""
        if done >= 1 or not (self.told or self.taken):
            self.monitor.say(
                f"Step {step}: no sample is shown, since a readable one takes about "
                f"{self.readable_seconds:.1f} s here, "
                "more than this run's time leaves for it."
            )
            self.told = True
        return []
