"""How often guesses of each kind have been right of late."""

from __future__ import annotations

from collections.abc import Sequence

WEIGHT = 4.0  # tokens that what was believed before counts for
MEMORY = 64.0  # tokens after which what was seen counts for little
FADING = 0.99  # of what was seen remains each time that it kept us from guessing: so we try again one day


class Odds:
    """Chances that a guessed token is right, by kind. `believed` are those before anything was seen; or `above`, what is known elsewhere,
    which learns with it."""

    def __init__(self, believed: Sequence[float], above: Odds | None = None) -> None:
        self._believed, self._above = believed, above
        self._right, self._seen = [0.0] * len(believed), [0.0] * len(believed)

    def below(self) -> Odds:
        """Odds of one text, which start from these."""
        return Odds(self._believed, self)

    def chance(self, kind: int) -> float:
        before = self._believed[kind] if self._above is None else self._above.chance(kind)
        return (self._right[kind] + WEIGHT * before) / (self._seen[kind] + WEIGHT)

    def note(self, kinds: Sequence[int], right: int) -> None:
        """Of guesses that followed each other the first `right` were right, and the next was wrong, where there is one."""
        for place, kind in enumerate(kinds[: right + 1]):
            keep = 1 - 1 / MEMORY
            self._right[kind] = keep * self._right[kind] + (place < right)
            self._seen[kind] = keep * self._seen[kind] + 1
        if self._above is not None:
            self._above.note(kinds, right)

    def fade(self, kind: int, keep: float = FADING) -> None:
        """A guess of this kind was not worth it: believe what was seen a little less, or by how much is to be kept of it."""
        self._right[kind] *= keep
        self._seen[kind] *= keep
        if self._above is not None:
            self._above.fade(kind, keep)
