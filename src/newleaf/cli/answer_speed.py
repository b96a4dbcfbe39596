"""How fast an answer was written: tokens after the first piece by the time they took, so that reading the
prompt does not count."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from newleaf.generate.chat.answering import ReplyPiece


class Timed:
    """Pieces of an answer as they come, and when."""

    def __init__(self, pieces: Iterable[ReplyPiece]) -> None:
        self._pieces = pieces
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def __iter__(self) -> Iterator[ReplyPiece]:
        for piece in self._pieces:
            self._last = time.monotonic(), piece.tokens
            self._first = self._first or self._last
            yield piece

    @property
    def tokens(self) -> int:
        """Tokens written."""
        return self._last[1]

    @property
    def per_second(self) -> float | None:
        """Tokens a second, or None for an answer that came in one piece."""
        if self._first is None or self._last[1] <= self._first[1]:
            return None
        return (self._last[1] - self._first[1]) / max(self._last[0] - self._first[0], 1e-9)
