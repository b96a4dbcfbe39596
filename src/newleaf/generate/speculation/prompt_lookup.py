"""Prompt lookup: proposes the tokens that followed the last n-gram earlier in the text.

Saxena 2023; LLMA, Yang et al. 2023. A proposal that reaches the end of the text continues with itself, so a
repetition of short period is proposed at any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Lengths of the n-grams that are looked up; the longest match wins.
NGRAM_SIZES = (8, 5, 3, 2)
MIN_NGRAM = NGRAM_SIZES[-1]
MAX_PROPOSED = 15  # tokens that are proposed at once
# A match of this length counts as copying, which goes on after a few changed tokens.
COPY_LENGTH = 4
MAX_EDIT = 3  # changed tokens that copying survives
MATCH_LENGTHS = (0, 2, 3, 4, 6, 9, 13, 20)  # lower bounds of the kinds of matches
PRIOR = (0.3, 0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.9)  # acceptance rate of each kind, before any is measured


def kind_of(length: int) -> int:
    """The kind of a match of so many tokens, an index into MATCH_LENGTHS."""
    return sum(length >= least for least in MATCH_LENGTHS) - 1


@dataclass
class PromptLookup:
    """The n-gram index of one text."""

    _seen: dict[int, int] = field(default_factory=dict)  # hash of an n-gram → where it ended last
    _indexed: int = 0
    _back: int = 0  # distance from the end of the text to the source of copying
    _copying: int = -MAX_EDIT  # length of the text when it last copied

    def find(self, ids: Sequence[int], most: int) -> tuple[list[int], int]:
        """Up to `most` proposed tokens, and the length of the match before them."""
        self._index(ids)
        length, end = max(((_match_length(ids, end), end) for end in self._places(ids)), default=(0, 0))
        if length >= COPY_LENGTH:
            self._back, self._copying = len(ids) - end, len(ids)
        elif length <= MIN_NGRAM and len(ids) - self._copying <= MAX_EDIT:
            length, end = 0, len(ids) - self._back
        elif length < MIN_NGRAM:
            return [], 0
        proposal: list[int] = []
        for place in range(end, end + min(most, MAX_PROPOSED)):
            proposal.append(ids[place] if place < len(ids) else proposal[place - len(ids)])
        return proposal, length

    def _places(self, ids: Sequence[int]) -> list[int]:
        """The ends of earlier n-grams that match the end of the text."""
        found = (self._seen.get(hash(tuple(ids[-size:]))) for size in NGRAM_SIZES if len(ids) > size)
        return [end for end in found if end is not None]

    def _index(self, ids: Sequence[int]) -> None:
        """Add the n-grams of new tokens, except those that end the text."""
        for end in range(max(self._indexed, MIN_NGRAM), len(ids)):
            for size in NGRAM_SIZES:
                if end >= size:
                    self._seen[hash(tuple(ids[end - size : end]))] = end
        self._indexed = len(ids)


def _match_length(ids: Sequence[int], end: int) -> int:
    """Length of the match before `end` with the end of the text, up to the last of MATCH_LENGTHS."""
    length = 0
    while length < min(end, MATCH_LENGTHS[-1]) and ids[end - 1 - length] == ids[-1 - length]:
        length += 1
    return length
