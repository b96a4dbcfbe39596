"""The section of a recipe that says which conversations or pairs are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from newleaf.data.encodings import canonical_encoding


@dataclass(frozen=True)
class ConversationDataConfig:
    """Rows of conversations or pairs.

    `val_fraction` takes the last ones, unless `validation` names sources of its own; `limit` and
    `validation_limit` count rows. `on_error="skip"` leaves out bad rows, and ones that are too long, and
    counts them. `encoding` is that of the files, which is guessed where they are not UTF-8.
    """

    val_fraction: float = 0.05
    validation: tuple[str, ...] | None = None
    limit: int | None = None
    validation_limit: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None:
            object.__setattr__(self, "encoding", canonical_encoding(self.encoding))
        if not 0 < self.val_fraction < 1:
            raise ValueError(
                f"val_fraction: {self.val_fraction!r} is not between 0 and 1; 0.05 takes the last twentieth"
            )
        for name in ("limit", "validation_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, not {value!r}")
