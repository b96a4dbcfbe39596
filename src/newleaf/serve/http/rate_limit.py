"""How much may be asked in a minute: buckets that fill steadily and hold a minute's worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from newleaf.serve.http.api_keys import ApiKey
from newleaf.serve.http.server_settings import Limits

ROUNDING = 1e-9  # of a bucket: no wait brings what a sum has lost by rounding
RESERVED_SHARE = 0.5  # of a bucket: what requests that can wait leave to those that somebody waits for


class TokenBucket:
    """`per_minute` of something, all at once or bit by bit."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def wait(self, amount: float) -> float:
        """Seconds until so much is there, or a whole minute's worth where that is less; 0 where it is."""
        now = self._clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        lacking = min(amount, self.per_minute) - self._left
        return lacking * 60 / self.per_minute if lacking > ROUNDING * self.per_minute else 0.0

    def take(self, amount: float) -> None:
        """What was used; the bucket may owe something then."""
        self._left -= amount


class RateLimiter:
    """The buckets of one key."""

    def __init__(
        self, requests: int | None, tokens: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = TokenBucket(requests, clock) if requests is not None else None
        self._tokens = TokenBucket(tokens, clock) if tokens is not None else None

    def admit(self, patient: bool = False) -> float:
        """0 when a request may come now, which is then counted; otherwise the seconds to wait. One that is
        `patient` leaves half of what a minute allows to others of the same key."""
        late = 0.0
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                late = max(late, bucket.wait(1 + (RESERVED_SHARE * bucket.per_minute if patient else 0)))
        if not late and self._requests:
            self._requests.take(1)
        return late

    def used(self, tokens: int) -> None:
        """A request has read and written so many tokens."""
        if self._tokens:
            self._tokens.wait(0)
            self._tokens.take(tokens)


class RateLimiters:
    """The rates of each key, and those of everybody together where there are no keys."""

    def __init__(
        self, limits: Limits, keys: Sequence[ApiKey] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._everybody = RateLimiter(limits.requests_per_minute, limits.tokens_per_minute, clock)
        self._keys = None if keys is None else {key.name for key in keys}
        self._rates: dict[str | None, RateLimiter] = {}
        for key in keys or ():
            requests = key.requests_per_minute or limits.requests_per_minute
            self._rates[key.name] = RateLimiter(
                requests, key.tokens_per_minute or limits.tokens_per_minute, clock
            )

    def knows(self, key: str | None) -> bool:
        """Whether this key is still let in. What was begun when there were no keys belongs to nobody."""
        return key is None or self._keys is None or key in self._keys

    def of(self, key: str | None) -> RateLimiter:
        return self._rates.get(key, self._everybody)
