"""Rate limits: token buckets of requests and tokens a minute, for each API key."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from newleaf.serve.http.api_keys import ApiKey
from newleaf.serve.http.server_settings import Limits

ROUNDING = 1e-9  # of a bucket: rounding errors that no waiting would cure
RESERVED_SHARE = 0.5  # of a bucket, which low-priority requests leave to others


class TokenBucket:
    """A token bucket of `per_minute`, which holds at most a minute's worth."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def wait(self, amount: float) -> float:
        """Seconds until `amount`, at most the full bucket, is available; 0 if it is."""
        now = self._clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / 60)
        self._at = now
        missing = min(amount, self.per_minute) - self._left
        return missing * 60 / self.per_minute if missing > ROUNDING * self.per_minute else 0.0

    def take(self, amount: float) -> None:
        """Take what was used; the level may become negative."""
        self._left -= amount


class RateLimiter:
    """The buckets of one key: requests and tokens."""

    def __init__(
        self, requests: int | None, tokens: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = TokenBucket(requests, clock) if requests is not None else None
        self._tokens = TokenBucket(tokens, clock) if tokens is not None else None

    def admit(self, low_priority: bool = False) -> float:
        """0 when a request may start now, which is then counted; otherwise the seconds to wait.

        A `low_priority` request leaves half of each bucket to others of the same key.
        """
        seconds = 0.0
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                seconds = max(
                    seconds, bucket.wait(1 + (RESERVED_SHARE * bucket.per_minute if low_priority else 0))
                )
        if not seconds and self._requests:
            self._requests.take(1)
        return seconds

    def count_tokens(self, tokens: int) -> None:
        """A request has used so many tokens."""
        if self._tokens:
            self._tokens.wait(0)
            self._tokens.take(tokens)


class RateLimiters:
    """The limiter of each key, and one for all requests where there are no keys."""

    def __init__(
        self, limits: Limits, keys: Sequence[ApiKey] | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shared = RateLimiter(limits.requests_per_minute, limits.tokens_per_minute, clock)
        self._keys = None if keys is None else {key.name for key in keys}
        self._rates: dict[str | None, RateLimiter] = {}
        for key in keys or ():
            requests = key.requests_per_minute or limits.requests_per_minute
            self._rates[key.name] = RateLimiter(
                requests, key.tokens_per_minute or limits.tokens_per_minute, clock
            )

    def is_known(self, key: str | None) -> bool:
        """Whether this key is still accepted. Batches created while there were no keys have no owner."""
        return key is None or self._keys is None or key in self._keys

    def for_key(self, key: str | None) -> RateLimiter:
        return self._rates.get(key, self._shared)
