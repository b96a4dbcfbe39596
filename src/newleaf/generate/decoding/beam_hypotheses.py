"""Beam search: the likeliest whole texts that can be found by keeping a few beginnings at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from newleaf.generate.sampling.penalties import FORBIDDEN


@dataclass(frozen=True)
class Candidate:
    """A beginning continued by one token: `parent` is the number of the beam, `score` the sum of
    log-probabilities."""

    parent: int
    token: int
    score: float


@dataclass(frozen=True)
class FinishedBeam:
    """A whole text, without the token that ended it where that one is not text; `score` is divided by length
    ** length_penalty."""

    ids: tuple[int, ...]
    score: float
    end: str


@dataclass
class BeamHypotheses:
    """What one search keeps: `scores` of the open beams, and the best finished texts, at most `beams` of
    them.

    As in stock transformers (early_stopping=False): of 2 · beams continuations, those that end and are among
    the `beams` likeliest finish, the likeliest others go on; the search ends when the likeliest open beam, at
    its present length, could not enter the finished.
    """

    beams: int
    length_penalty: float
    scores: list[float] = field(default_factory=lambda: [0.0])
    finished: list[FinishedBeam] = field(default_factory=list)

    def candidates(self, logprobs: Tensor, ends: int) -> list[Candidate]:
        """The likeliest continuations, likeliest first: processed log-probabilities [open beams, V]; `ends`
        counts the ids that end a text."""
        total = logprobs + logprobs.new_tensor(self.scores)[:, None]
        best = total.flatten().topk(min(max(2, 1 + ends) * self.beams, total.numel()))
        width = logprobs.shape[1]
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            Candidate(place // width, place % width, score) for place, score in pairs if score > FORBIDDEN
        ]

    def finish(self, ids: tuple[int, ...], score: float, length: int, end: str) -> None:
        """A text of `length` tokens, its last one included, is whole."""
        self.finished.append(FinishedBeam(ids, score / length**self.length_penalty, end))
        self.finished.sort(key=lambda text: -text.score)
        del self.finished[self.beams :]

    def hopeless(self, length: int) -> bool:
        """Whether no open beam, `length` tokens long, can enter the finished texts."""
        if not self.scores:
            return True
        return (
            len(self.finished) == self.beams
            and max(self.scores) / length**self.length_penalty <= self.finished[-1].score
        )
