"""What is known of a request by its end: for its line in the log, and for the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MAX_USER_CHARACTERS = 256  # characters of a user's name in the log


@dataclass
class RequestRecord:
    """What is known of a request by its end; whoever answers it fills it in."""

    id: str
    key: str | None = None
    model: str | None = None
    user: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: float | None = None  # seconds
    gone: bool | None = None  # the client left before the end
    ignored: list[str] = field(default_factory=list)  # places in the body that had no effect
    loosened: tuple[str, ...] = ()  # keywords of schemas that no grammar can keep
    unmet: list[str] = field(default_factory=list)  # where what was written does not fit them
    began: float = field(default_factory=time.perf_counter)

    def of(self, model: str, user: str | None = None) -> None:
        """Who is asked, and for whom."""
        self.model, self.user = model, user[:MAX_USER_CHARACTERS] if user is not None else None

    def wrote(self) -> None:
        """The first piece of text is there."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.began
