"""Prompt look-up: guess that a text goes on as it did where its last tokens stood before (Saxena 2023; LLMA, Yang et al. 2023).

A guess that is as long as the text allows takes a place in its own copy: what repeats with a short period is guessed as far as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LONGEST, SHORTEST = 3, 2  # tokens that must have stood before, to find the place
MOST = 15  # tokens that are guessed at once
KINDS = (2, 3, 4, 6, 9, 13, 20)  # matches of at least so many tokens are alike
BELIEVED = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.93)  # that the next token is the same too


def kind_of(length: int) -> int:
    """Which of KINDS a match of so many tokens is."""
    return sum(length >= least for least in KINDS) - 1


@dataclass
class Lookup:
    """Where the tokens of one text have stood before."""

    _seen: dict[tuple[int, ...], int] = field(default_factory=dict)  # some tokens → where they end, last
    _indexed: int = 0

    def find(self, ids: Sequence[int], most: int) -> tuple[list[int], int]:
        """Up to `most` tokens that may follow, and how many tokens before them stood before those too."""
        self._index(ids)
        for end in self._places(ids):
            length = 0
            while length < KINDS[-1] and length < end and ids[end - 1 - length] == ids[-1 - length]:
                length += 1
            if length >= SHORTEST:
                guess: list[int] = []
                for place in range(end, end + min(most, MOST)):
                    guess.append(ids[place] if place < len(ids) else guess[place - len(ids)])
                return guess, length
        return [], 0

    def _places(self, ids: Sequence[int]) -> list[int]:
        """Where the text may be going on from: the longest runs of tokens first."""
        found = (self._seen.get(tuple(ids[-size:])) for size in range(LONGEST, SHORTEST - 1, -1) if len(ids) > size)
        return [end for end in found if end is not None]

    def _index(self, ids: Sequence[int]) -> None:
        """Note where each run of tokens ends, up to the one before the last, which stands for itself."""
        for end in range(max(self._indexed, SHORTEST), len(ids)):
            for size in range(SHORTEST, LONGEST + 1):
                if end >= size:
                    self._seen[tuple(ids[end - size : end])] = end
        self._indexed = len(ids)
