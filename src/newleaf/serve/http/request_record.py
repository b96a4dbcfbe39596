"""What is known of a request at its end, for its log line and the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

MAX_USER_CHARACTERS = 256  # of `user` in the log


@dataclass
class RequestRecord:
    """What is known of a request at its end; the route fills it in."""

    id: str
    key: str | None = None
    model: str | None = None
    user: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: float | None = None  # seconds
    gone: bool | None = None  # whether the client disconnected before the end
    ignored: list[str] = field(default_factory=list)  # paths of fields in the body
    loosened: tuple[str, ...] = ()  # paths of schema keywords that the grammar does not enforce
    unmet: list[str] = field(default_factory=list)  # where the answer violates them
    began: float = field(default_factory=time.perf_counter)

    def set_model(self, model: str, user: str | None = None) -> None:
        """Set the model and the user."""
        self.model, self.user = model, user[:MAX_USER_CHARACTERS] if user is not None else None

    def mark_first_token(self) -> None:
        """Note the time to the first token, at the first chunk of text."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.began
