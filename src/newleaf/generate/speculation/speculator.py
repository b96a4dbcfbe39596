"""Speculative decoding: proposes tokens by prompt lookup or by a draft model, where that pays.

A proposal costs a row of the next step, and a drafted one also a step of the draft. An accepted one saves a
token's share of a step. Costs (`StepCost`) and acceptance rates (`AcceptanceRates`) are measured; the number
of proposals is the one that gives most tokens a second.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from newleaf.generate.backend.executor import Executor
from newleaf.generate.speculation import prompt_lookup
from newleaf.generate.speculation.acceptance_rates import AcceptanceRates
from newleaf.generate.speculation.draft_model import (
    MAX_DRAFTED,
    MAX_LAG,
    DraftedTokens,
    DraftModel,
    sleep_threads,
)
from newleaf.generate.speculation.speculation_state import SpeculationStates
from newleaf.generate.speculation.step_cost import StepCost
from newleaf.generate.text.sequence import Sequence

# steps with proposals before one without, which keeps the comparison current
BASELINE_INTERVAL = 64
# Steps without the draft after it did not pay; the pause doubles each time.
MIN_PAUSE, MAX_PAUSE = 32, 2048


@dataclass
class AcceptanceCount:
    """Tokens proposed, and accepted."""

    proposed: int = 0
    accepted: int = 0

    @property
    def guessed(self) -> int:
        """`proposed`, by its old name."""
        warn_renamed("guessed", "proposed")
        return self.proposed

    @property
    def right(self) -> int:
        """`accepted`, by its old name."""
        warn_renamed("right", "accepted")
        return self.accepted


def warn_renamed(old: str, new: str) -> None:
    """Warn that an attribute has a new name; the old one goes with the next release."""
    warnings.warn(
        f"{old} is called {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )


@dataclass
class Proposal:
    """Tokens proposed for one sequence, with their kinds in the acceptance rates of their source."""

    tokens: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    drafted: bool = False


class Speculator:
    """Proposals for all sequences of an engine; `acceptance_counts` counts them by source."""

    def __init__(self, executor: Executor, draft: DraftModel | None = None) -> None:
        self.executor, self.draft = executor, draft
        self.states = draft.states if draft is not None else SpeculationStates()
        self.step_cost = StepCost()
        self.acceptance_counts = {"look-up": AcceptanceCount(), "draft": AcceptanceCount()}
        self._acceptance = AcceptanceRates(prompt_lookup.PRIOR)
        self._proposals: dict[int, Proposal] = {}  # of this step, by slot
        self._since = 0  # steps with proposals since the last one without

    @property
    def tally(self) -> dict[str, AcceptanceCount]:
        """`acceptance_counts`, by its old name."""
        warn_renamed("tally", "acceptance_counts")
        return self.acceptance_counts

    def propose(self, writing: Several[Sequence]) -> dict[int, list[int]]:
        """Proposed tokens by slot, for sequences that all decode in the next step."""
        self._proposals = {}
        if not self.step_cost.known:
            return {}
        candidates = [
            (each, most)
            for each in writing
            if each.sample.row.config.speculation == "auto" and (most := self._max_proposals(each)) > 0
        ]
        if self._since >= BASELINE_INTERVAL:
            self._since = 0
            return {}
        rows = len(writing)
        left = []
        for sequence, most in candidates:
            found = self._look_up(sequence, most, len(writing), rows)
            if found is None:
                left.append((sequence, most))
            else:
                rows += len(found.tokens)
                self._add_proposal(sequence, found)
        if self.draft is not None and left:
            self._draft(self.draft, left, len(writing), rows)
        self._since += bool(self._proposals)
        return {slot: found.tokens for slot, found in self._proposals.items()}

    def record_accepted(self, sequence: Sequence, accepted: int) -> None:
        """The first `accepted` proposals for this sequence were accepted."""
        found = self._proposals.get(sequence.slot if sequence.slot is not None else -1)
        if found is None:
            return
        acceptance_counts = self.acceptance_counts["draft" if found.drafted else "look-up"]
        acceptance_counts.proposed, acceptance_counts.accepted = (
            acceptance_counts.proposed + len(found.tokens),
            acceptance_counts.accepted + accepted,
        )
        if found.drafted and self.draft is not None:
            self.draft.record_accepted(found.kinds, accepted)
        elif (acceptance := self.states.of(sequence).acceptance) is not None:
            acceptance.record(found.kinds, accepted)

    def release(self, sequence: Sequence) -> None:
        """The sequence gives its slot back."""
        if self.draft is not None:
            self.draft.publish(sequence)
            self.draft.reset(sequence)

    def _max_proposals(self, sequence: Sequence) -> int:
        """The most tokens that may be proposed: one more is always sampled."""
        row = sequence.sample.row
        if sequence.group is not None:
            return 0
        return min(self.executor.max_length - sequence.length, row.config.max_tokens - row.written - 1)

    def _add_proposal(self, sequence: Sequence, found: Proposal) -> None:
        assert sequence.slot is not None
        if found.tokens:
            self._proposals[sequence.slot] = found

    def _look_up(self, sequence: Sequence, most: int, texts: int, rows: int) -> Proposal | None:
        """A proposal by prompt lookup; None where there is none that pays, or the draft promises more."""
        row, state = sequence.sample.row, self.states.of(sequence)
        tokens, length = state.lookup.find(row.ids, most)
        if row.constraint is not None and tokens:
            tokens = tokens[: row.constraint.fitting(tokens)]
        if not tokens:
            return None
        state.acceptance = state.acceptance or self._acceptance.child()
        kinds = [prompt_lookup.kind_of(length + place) for place in range(len(tokens))]
        probabilities, reach = [], 1.0
        for kind in kinds:
            reach *= state.acceptance.probability(kind)
            probabilities.append(reach)
        count, rate = self.step_cost.best_count(texts, rows, probabilities)
        if not count:
            state.acceptance.decay(kinds[0])
        drafting = (
            self._ready(sequence) and self._expected(self.draft, most, texts, rows, 1)[1] > rate
            if self.draft is not None
            else False
        )
        return None if drafting or not count else Proposal(tokens[:count], kinds[:count])

    def _ready(self, sequence: Sequence) -> bool:
        """Whether the draft can propose now, without reading much first."""
        state = self.states.of(sequence)
        return (
            self.draft is not None
            and not state.paused_steps
            and bool(state.draft_read)
            and self.draft.lag(sequence) <= MAX_LAG
        )

    def _expected(
        self, draft: DraftModel, most: int, texts: int, rows: int, others: int
    ) -> tuple[int, float]:
        """The number of tokens to draft, and the expected tokens a second, before any is drafted."""
        likely, step = draft.overall.probability(0), draft.step_seconds(others, self.step_cost)
        return self.step_cost.best_count(
            texts,
            rows,
            [likely**count for count in range(1, min(most, MAX_DRAFTED) + 1)],
            lambda steps: steps * step,
        )

    def _draft(
        self, draft: DraftModel, candidates: Several[tuple[Sequence, int]], texts: int, rows: int
    ) -> None:
        """Proposals by the draft for those sequences where they pay, in one batch."""
        able: list[DraftedTokens] = []
        for sequence, most in candidates:
            state = self.states.of(sequence)
            if state.paused_steps:
                state.paused_steps -= 1
                continue
            draft.sync(sequence)
            most = min(
                most, MAX_DRAFTED, draft.executor.max_length - len(sequence.sample.row.ids) + state.draft_base
            )
            if most > 0 and self._pays(draft, sequence, most, texts, rows, len(candidates)):
                able.append(DraftedTokens(sequence, sequence.sample.row.fork(), most))
        if able:
            sleep_threads(self.executor)  # so that the draft's threads have the cores
            for ahead in able:
                if draft.lag(ahead.sequence) > MAX_LAG:
                    draft.prefill(ahead.sequence, draft.executor.rows)
            self._draft_tokens(
                draft, [each for each in able if draft.lag(each.sequence) <= MAX_LAG], texts, rows
            )
            sleep_threads(draft.executor)

    def _draft_tokens(self, draft: DraftModel, near: Several[DraftedTokens], texts: int, rows: int) -> None:
        """Draft for each sequence while the next token is likely enough to be accepted."""
        rate = texts / (self.step_cost.seconds(texts, rows) + self.step_cost.sampling_seconds * texts)
        row, likely = self.step_cost.row_seconds(texts, rows + len(near)), draft.overall.probability(0)
        active = list(near)
        while active:
            least = rate * (row + draft.step_seconds(len(active), self.step_cost))
            going = (
                each
                for each in draft.step(active)
                if len(each.tokens) < each.max_tokens and each.tokens[-1] not in each.row.end_ids
            )
            active = [each for each in going if each.reach[-1] * likely > least]
        for each in near:
            count, _ = self.step_cost.best_count(texts, rows, each.reach)
            rows += count
            self._add_proposal(each.sequence, Proposal(each.tokens[:count], each.kinds[:count], True))

    def _pays(
        self, draft: DraftModel, sequence: Sequence, most: int, texts: int, rows: int, others: int
    ) -> bool:
        """Whether drafting is expected to pay, prefill of the draft included; if not, pause it."""
        count, rate = self._expected(draft, most, texts, rows, others)
        if reading := draft.reading_seconds(draft.lag(sequence), self.step_cost):
            row = sequence.sample.row
            saved = (
                self.step_cost.seconds(texts, rows) + self.step_cost.sampling_seconds * texts
            ) / texts - 1 / rate
            count *= saved * (row.config.max_tokens - row.written) > reading
        if not count:
            state = self.states.of(sequence)
            state.last_pause = min(2 * state.last_pause or MIN_PAUSE, MAX_PAUSE)
            state.paused_steps = state.last_pause
            draft.overall.decay(0, 0.5)
        return bool(count)
