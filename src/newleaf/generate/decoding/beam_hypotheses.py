"""Hypotheses of a beam search: scores of open beams, and the best finished texts."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from newleaf.generate.sampling.penalties import FORBIDDEN


@dataclass(frozen=True)
class Candidate:
    """A beam and one more token: `parent` is the beam's number, `score` the sum of log-probabilities."""

    parent: int
    token: int
    score: float


@dataclass(frozen=True)
class FinishedBeam:
    """A finished text, without its end token; `score` is divided by length ** length_penalty."""

    ids: tuple[int, ...]
    score: float
    end: str


@dataclass
class BeamHypotheses:
    """The scores of the open beams, and the best finished texts, at most `beams` of them.

    As in stock transformers (early_stopping=False): of 2 · beams continuations, those that end and are among
    the `beams` likeliest finish, and the likeliest others stay open. The search ends when no open beam, at
    its present length, could enter the finished texts.
    """

    beams: int
    length_penalty: float
    scores: list[float] = field(default_factory=lambda: [0.0])
    finished: list[FinishedBeam] = field(default_factory=list)

    def candidates(self, logprobs: Tensor, ends: int) -> list[Candidate]:
        """The likeliest continuations, best first, by processed log-probabilities [open beams, V].

        `ends` counts the ids that end a text.
        """
        total = logprobs + logprobs.new_tensor(self.scores)[:, None]
        best = total.flatten().topk(min(max(2, 1 + ends) * self.beams, total.numel()))
        width = logprobs.shape[1]
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [
            Candidate(place // width, place % width, score) for place, score in pairs if score > FORBIDDEN
        ]

    def finish(self, ids: tuple[int, ...], score: float, length: int, end: str) -> None:
        """A beam of `length` tokens, its end included, is finished."""
        self.finished.append(FinishedBeam(ids, score / length**self.length_penalty, end))
        self.finished.sort(key=lambda text: -text.score)
        del self.finished[self.beams :]

    def is_done(self, length: int) -> bool:
        """Whether no open beam of `length` tokens can enter the finished texts."""
        if not self.scores:
            return True
        return (
            len(self.finished) == self.beams
            and max(self.scores) / length**self.length_penalty <= self.finished[-1].score
        )
