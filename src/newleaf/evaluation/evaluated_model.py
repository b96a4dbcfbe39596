"""What is evaluated: anything that says how likely a continuation is, and that writes. A local model and an
address both are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from newleaf.measure.loglikelihood import Score


@dataclass(frozen=True)
class LoglikelihoodRequest:
    """A text, and continuations whose log-likelihoods after it are wanted."""

    context: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class GenerationOptions:
    """How to go on with a prompt: at most `max_tokens`, up to the first of `stop` (left out), `n` texts;
    temperature 0 is greedy."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0


@dataclass(frozen=True)
class RefusedRequest:
    """Why something cannot be answered."""

    reason: str


class EvaluatedModel(Protocol):
    """A model under evaluation."""

    name: str

    @property
    def fingerprint(self) -> str:
        """Changes with the weights, so that answers of one model are not taken for another's."""

    def about(self) -> dict[str, Any]:
        """What a report says of it."""

    def score(
        self, asks: Sequence[LoglikelihoodRequest]
    ) -> Iterator[tuple[int, list[Score] | RefusedRequest]]:
        """A score for each continuation of each ask, with the ask's number, in whatever order they are
        found."""

    def write(
        self, prompts: Sequence[str], how: GenerationOptions
    ) -> Iterator[tuple[int, list[str] | RefusedRequest]]:
        """`how.n` texts for each prompt, with the prompt's number, in whatever order they are done."""
