"""How often proposals of each kind have been right of late."""

from __future__ import annotations

from collections.abc import Sequence

PRIOR_WEIGHT = 4.0  # tokens that what was believed before counts for
WINDOW = 64.0  # tokens after which what was seen counts for little
DECAY = 0.99  # of what was seen remains each time that it kept us from guessing: so we try again one day


class AcceptanceRates:
    """Chances that a proposed token is right, by kind. `prior` are those before anything was seen; or
    `parent`, what is known elsewhere, which learns with it."""

    def __init__(self, prior: Sequence[float], parent: AcceptanceRates | None = None) -> None:
        self._prior, self._parent = prior, parent
        self._accepted, self._seen = [0.0] * len(prior), [0.0] * len(prior)

    def child(self) -> AcceptanceRates:
        """Acceptance rates of one text, which start from these."""
        return AcceptanceRates(self._prior, self)

    def probability(self, kind: int) -> float:
        before = self._prior[kind] if self._parent is None else self._parent.probability(kind)
        return (self._accepted[kind] + PRIOR_WEIGHT * before) / (self._seen[kind] + PRIOR_WEIGHT)

    def record(self, kinds: Sequence[int], accepted: int) -> None:
        """Of proposals that followed each other the first `accepted` were right, and the next was wrong,
        where there is one."""
        for place, kind in enumerate(kinds[: accepted + 1]):
            keep = 1 - 1 / WINDOW
            self._accepted[kind] = keep * self._accepted[kind] + (place < accepted)
            self._seen[kind] = keep * self._seen[kind] + 1
        if self._parent is not None:
            self._parent.record(kinds, accepted)

    def decay(self, kind: int, keep: float = DECAY) -> None:
        """A proposal of this kind was not worth it: believe what was seen a little less, or by how much is to
        be kept of it."""
        self._accepted[kind] *= keep
        self._seen[kind] *= keep
        if self._parent is not None:
            self._parent.decay(kind, keep)
