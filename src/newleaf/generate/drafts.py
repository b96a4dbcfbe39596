"""Prompt look-up: guess that a text goes on as it did where its last tokens stood before (Saxena 2023; LLMA, Yang et al. 2023).

Each guessed token costs a row of the next step. It is kept if the chooser, given the logits before it, chooses the same: so the text is the
one that would have been written anyway, whatever the temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST, SHORTEST = 3, 2  # tokens that must have stood before
MOST = 7  # tokens that are guessed at once
PATIENCE = 8  # tokens without a guess after a wrong one; twice as many after each that follows
MOST_PATIENCE = 256


@dataclass
class Drafts:
    """Guesses for one text, and whether they have been worth their while."""

    size: int = 4
    _pause: int = 0
    _wait: int = PATIENCE
    _seen: dict[tuple[int, ...], int] = field(default_factory=dict)  # some tokens → where they end, last
    _indexed: int = 0

    def guess(self, ids: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow; none while guesses do not pay."""
        if self._pause > 0:
            self._pause -= 1
            return []
        self._index(ids)
        for size in range(LONGEST, SHORTEST - 1, -1):
            end = self._seen.get(tuple(ids[-size:])) if len(ids) > size else None
            if end is not None:
                return list(ids[end : end + min(self.size, most)])
        return []

    def judge(self, guessed: int, right: int) -> None:
        """How many of the guessed tokens were right: guess more or fewer, or not at all for a while."""
        if guessed and right == guessed:
            self.size, self._wait = min(MOST, self.size + 2), PATIENCE
        elif 2 * right < guessed:
            self.size = max(2, right + 1)
            if not right:
                self._pause, self._wait = self._wait, min(2 * self._wait, MOST_PATIENCE)

    def _index(self, ids: Sequence[int]) -> None:
        """Note where each run of tokens ends, up to the one before the last, which stands for itself."""
        for end in range(max(self._indexed, SHORTEST), len(ids)):
            for size in range(SHORTEST, LONGEST + 1):
                if end >= size:
                    self._seen[tuple(ids[end - size : end])] = end
        self._indexed = len(ids)
