"""Acceptance rates: how often recent proposals of each kind were accepted."""

from __future__ import annotations

from collections.abc import Sequence

PRIOR_WEIGHT = 4.0  # tokens that the prior counts for
WINDOW = 64.0  # tokens after which an observation counts for little
DECAY = 0.99  # kept of the observations each time that they prevent a proposal, so that it is tried again


class AcceptanceRates:
    """Probabilities that a proposed token is accepted, by kind.

    `prior` holds before any observation. A `parent` replaces it, and records the same observations.
    """

    def __init__(self, prior: Sequence[float], parent: AcceptanceRates | None = None) -> None:
        self._prior, self._parent = prior, parent
        self._accepted, self._seen = [0.0] * len(prior), [0.0] * len(prior)

    def child(self) -> AcceptanceRates:
        """Acceptance rates of one sequence, which start from these."""
        return AcceptanceRates(self._prior, self)

    def probability(self, kind: int) -> float:
        before = self._prior[kind] if self._parent is None else self._parent.probability(kind)
        return (self._accepted[kind] + PRIOR_WEIGHT * before) / (self._seen[kind] + PRIOR_WEIGHT)

    def record(self, kinds: Sequence[int], accepted: int) -> None:
        """Of consecutive proposals the first `accepted` were accepted, and the next one, if any, rejected."""
        for place, kind in enumerate(kinds[: accepted + 1]):
            keep = 1 - 1 / WINDOW
            self._accepted[kind] = keep * self._accepted[kind] + (place < accepted)
            self._seen[kind] = keep * self._seen[kind] + 1
        if self._parent is not None:
            self._parent.record(kinds, accepted)

    def decay(self, kind: int, keep: float = DECAY) -> None:
        """Weaken the observations of a kind that was not proposed; `keep` is the share that remains."""
        self._accepted[kind] *= keep
        self._seen[kind] *= keep
        if self._parent is not None:
            self._parent.decay(kind, keep)
