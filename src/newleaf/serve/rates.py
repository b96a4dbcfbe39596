"""How much may be asked in a minute: buckets that fill steadily and hold a minute's worth."""

from __future__ import annotations

import time
from collections.abc import Callable


class Bucket:
    """`per_minute` of something, all at once or bit by bit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def wait(self, amount: float) -> float:
        """Seconds until so much is there; 0 where it is."""
        now = self._clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        return max(0.0, (amount - self._left) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """What was used; the bucket may owe something then."""
        self._left -= amount


class Rates:
    """The buckets of one key."""

    def __init__(self, requests: int | None, tokens: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = Bucket(requests, clock) if requests is not None else None
        self._tokens = Bucket(tokens, clock) if tokens is not None else None

    def admit(self) -> float:
        """0 when a request may come now, which is then counted; otherwise the seconds to wait."""
        late = max(self._requests.wait(1) if self._requests else 0.0, self._tokens.wait(1) if self._tokens else 0.0)
        if not late and self._requests:
            self._requests.take(1)
        return late

    def used(self, tokens: int) -> None:
        """A request has read and written so many tokens."""
        if self._tokens:
            self._tokens.wait(0)
            self._tokens.take(tokens)
