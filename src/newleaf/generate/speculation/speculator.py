"""What may follow in texts that are being written: found in the text itself, or drafted by a small network; nothing where it does not pay.

Each guess costs a row of the next round, a drafted one a step of the draft too, and saves a token's share of a round if it comes true. What
rows and steps cost is measured (`Pace`), and so is how often guesses come true (`Odds`); as many are taken as make most tokens a second.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field

from newleaf.generate.backend.executor import Slots
from newleaf.generate.speculation import prompt_lookup
from newleaf.generate.speculation.acceptance import Odds
from newleaf.generate.speculation.draft_model import MOST, NEAR, Ahead, Draft, rest
from newleaf.generate.speculation.step_cost import Pace
from newleaf.generate.text.sequence import Sequence

CHECK = 64  # each so many rounds with guesses, one without, so that what they are compared with stays true
PATIENCE, MOST_PATIENCE = 32, 2048  # rounds without the draft after it did not pay; twice as many each time that follows


@dataclass
class Tally:
    """Tokens guessed, and how many of them came true."""

    guessed: int = 0
    right: int = 0


@dataclass
class Guess:
    """Tokens that may follow one text; `kinds` are those of the odds of where they come from."""

    tokens: list[int] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    drafted: bool = False


class Guesser:
    """Guesses for all texts of an engine. `tally` counts them by where they came from."""

    def __init__(self, slots: Slots, draft: Draft | None = None) -> None:
        self.slots, self.draft = slots, draft
        self.pace = Pace()
        self.tally = {"look-up": Tally(), "draft": Tally()}
        self._odds = Odds(prompt_lookup.BELIEVED)
        self._guesses: dict[int, Guess] = {}  # of this round, by slot
        self._since = 0  # rounds with guesses since the last one without

    def guess(self, writing: Several[Sequence]) -> dict[int, list[int]]:
        """Tokens that may follow each of these texts, which all write in the next round, by their slots."""
        self._guesses = {}
        if not self.pace.known:
            return {}
        wanting = [(each, most) for each in writing if each.sample.row.config.speculation == "auto" and (most := self._most(each)) > 0]
        if self._since >= CHECK:
            self._since = 0
            return {}
        rows = len(writing)
        left = []
        for sequence, most in wanting:
            found = self._look_up(sequence, most, len(writing), rows)
            if found is None:
                left.append((sequence, most))
            else:
                rows += len(found.tokens)
                self._note(sequence, found)
        if self.draft is not None and left:
            self._write_ahead(self.draft, left, len(writing), rows)
        self._since += bool(self._guesses)
        return {slot: found.tokens for slot, found in self._guesses.items()}

    def judge(self, sequence: Sequence, right: int) -> None:
        """So many of the first guesses for this text came true."""
        found = self._guesses.get(sequence.slot if sequence.slot is not None else -1)
        if found is None:
            return
        tally = self.tally["draft" if found.drafted else "look-up"]
        tally.guessed, tally.right = tally.guessed + len(found.tokens), tally.right + right
        if found.drafted and self.draft is not None:
            self.draft.judge(found.kinds, right)
        elif sequence.odds is not None:
            sequence.odds.note(found.kinds, right)

    def forget(self, sequence: Sequence) -> None:
        """The text leaves its slot."""
        if self.draft is not None:
            self.draft.publish(sequence)
            self.draft.forget(sequence)

    def _most(self, sequence: Sequence) -> int:
        """How many tokens may be guessed, so that the text still has a token of its own to write."""
        row = sequence.sample.row
        if sequence.group is not None:
            return 0
        return min(self.slots.max_length - sequence.length, row.config.max_tokens - row.written - 1)

    def _note(self, sequence: Sequence, found: Guess) -> None:
        assert sequence.slot is not None
        if found.tokens:
            self._guesses[sequence.slot] = found

    def _look_up(self, sequence: Sequence, most: int, texts: int, rows: int) -> Guess | None:
        """What the text itself says; None where it says nothing that is worth its rows."""
        row = sequence.sample.row
        tokens, length = sequence.lookup.find(row.ids, most)
        if row.constraint is not None and tokens:
            tokens = tokens[: row.constraint.fitting(tokens)]
        if not tokens:
            return None
        sequence.odds = sequence.odds or self._odds.below()
        kinds = [prompt_lookup.kind_of(length + place) for place in range(len(tokens))]
        chances, reach = [], 1.0
        for kind in kinds:
            reach *= sequence.odds.chance(kind)
            chances.append(reach)
        count, rate = self.pace.best(texts, rows, chances)
        if not count:
            sequence.odds.fade(kinds[0])
        drafting = self._ready(sequence) and self._expected(self.draft, most, texts, rows, 1)[1] > rate if self.draft is not None else False
        return None if drafting or not count else Guess(tokens[:count], kinds[:count])

    def _ready(self, sequence: Sequence) -> bool:
        """Whether the draft could go on with the text at once."""
        return self.draft is not None and not sequence.pause and bool(sequence.drafted) and self.draft.behind(sequence) <= NEAR

    def _expected(self, draft: Draft, most: int, texts: int, rows: int, others: int) -> tuple[int, float]:
        """How many tokens to draft, and the tokens a second of such rounds, by what is known before any is drafted."""
        likely, step = draft.any.chance(0), draft.step_seconds(others, self.pace)
        return self.pace.best(texts, rows, [likely**count for count in range(1, min(most, MOST) + 1)], lambda steps: steps * step)

    def _write_ahead(self, draft: Draft, wanting: Several[tuple[Sequence, int]], texts: int, rows: int) -> None:
        """Guesses by the draft for those texts where they pay, all of them side by side."""
        able: list[Ahead] = []
        for sequence, most in wanting:
            if sequence.pause:
                sequence.pause -= 1
                continue
            draft.follow(sequence)
            most = min(most, MOST, draft.slots.max_length - len(sequence.sample.row.ids) + sequence.draft_base)
            if most > 0 and self._pays(draft, sequence, most, texts, rows, len(wanting)):
                able.append(Ahead(sequence, sequence.sample.row.fork(), most))
        if able:
            rest(self.slots)  # its threads leave the cores to the draft's
            for ahead in able:
                if draft.behind(ahead.sequence) > NEAR:
                    draft.read(ahead.sequence, draft.slots.rows)
            self._draft(draft, [each for each in able if draft.behind(each.sequence) <= NEAR], texts, rows)
            rest(draft.slots)

    def _draft(self, draft: Draft, near: Several[Ahead], texts: int, rows: int) -> None:
        """Go on for each text while what comes next is likely enough to be right."""
        rate = texts / (self.pace.seconds(texts, rows) + self.pace.choosing * texts)
        row, likely = self.pace.row(texts, rows + len(near)), draft.any.chance(0)
        active = list(near)
        while active:
            least = rate * (row + draft.step_seconds(len(active), self.pace))
            going = (each for each in draft.step(active) if len(each.tokens) < each.most and each.tokens[-1] not in each.row.end_ids)
            active = [each for each in going if each.reach[-1] * likely > least]
        for each in near:
            count, _ = self.pace.best(texts, rows, each.reach)
            rows += count
            self._note(each.sequence, Guess(each.tokens[:count], each.kinds[:count], True))

    def _pays(self, draft: Draft, sequence: Sequence, most: int, texts: int, rows: int, others: int) -> bool:
        """Whether drafting is worth its time by what is known, with what the draft must read first; if not, wait before the next try."""
        count, rate = self._expected(draft, most, texts, rows, others)
        if reading := draft.reading_seconds(draft.behind(sequence), self.pace):
            row = sequence.sample.row
            saved = (self.pace.seconds(texts, rows) + self.pace.choosing * texts) / texts - 1 / rate
            count *= saved * (row.config.max_tokens - row.written) > reading
        if not count:
            sequence.patience = min(2 * sequence.patience or PATIENCE, MOST_PATIENCE)
            sequence.pause = sequence.patience
            draft.any.fade(0, 0.5)
        return bool(count)
