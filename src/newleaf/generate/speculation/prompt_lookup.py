"""Prompt lookup: propose that a text goes on as it did where its last tokens stood before (Saxena 2023; LLMA,
Yang et al. 2023).

A proposal that reaches the end of the text goes on in itself, so that what repeats with a short period is
proposed as far as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# tokens that must have stood before, to find the place: the longest run that did is gone on with
NGRAM_SIZES = (8, 5, 3, 2)
MIN_NGRAM = NGRAM_SIZES[-1]
MAX_PROPOSED = 15  # tokens that are proposed at once
# tokens of a run from which on a text is taken to be copying; then it may have changed a token or a few on
# the way
COPY_LENGTH = 4
MAX_EDIT = 3  # tokens after such a run that may differ
MATCH_LENGTHS = (0, 2, 3, 4, 6, 9, 13, 20)  # runs of at least so many tokens are alike
PRIOR = (0.3, 0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.9)  # that the next token is the same too


def kind_of(length: int) -> int:
    """Which of KINDS a match of so many tokens is."""
    return sum(length >= least for least in MATCH_LENGTHS) - 1


@dataclass
class PromptLookup:
    """Where the tokens of one text have stood before."""

    _seen: dict[int, int] = field(default_factory=dict)  # the hash of some tokens → where they end, last
    _indexed: int = 0
    _back: int = 0  # how far before the text's end the place is that it was copying from
    _copying: int = -MAX_EDIT  # how long the text was then

    def find(self, ids: Sequence[int], most: int) -> tuple[list[int], int]:
        """Up to `most` tokens that may follow, and how many tokens before them stood before those too."""
        self._index(ids)
        length, end = max(((_run(ids, end), end) for end in self._places(ids)), default=(0, 0))
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
        """Where the text may be going on from."""
        found = (self._seen.get(hash(tuple(ids[-size:]))) for size in NGRAM_SIZES if len(ids) > size)
        return [end for end in found if end is not None]

    def _index(self, ids: Sequence[int]) -> None:
        """Note where each run of tokens ends, up to the one before the last, which stands for itself."""
        for end in range(max(self._indexed, MIN_NGRAM), len(ids)):
            for size in NGRAM_SIZES:
                if end >= size:
                    self._seen[hash(tuple(ids[end - size : end]))] = end
        self._indexed = len(ids)


def _run(ids: Sequence[int], end: int) -> int:
    """How many tokens before `end` are those that the text ends with; more than the longest of KINDS make no
    difference."""
    length = 0
    while length < min(end, MATCH_LENGTHS[-1]) and ids[end - 1 - length] == ids[-1 - length]:
        length += 1
    return length
