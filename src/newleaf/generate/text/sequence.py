"""One text on its way through the engine: what of it has been read, where, and what might follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from newleaf.generate.text.text_state import TextState

if TYPE_CHECKING:
    from newleaf.generate.text.request import Request


class Grouped(Protocol):
    """What a text knows of the group that it is in (generate/decoding/sequence_group.py)."""

    slot_count: int  # slots
    max_length: int  # tokens that any of its texts may come to have
    finished: bool
    logits: dict[Sequence, Tensor]  # of the texts whose next token waits for others
    members: list[tuple[Sequence, ...]]
    spare_slots: list[int]

    @property
    def sequences(self) -> list[Sequence]:
        """All of its texts."""


@dataclass(eq=False)
class Sequence:
    """A text being written. `slot` is its place in the cache, None while it waits; `read` counts the tokens
    that the cache holds."""

    sample: TextState
    request: Request
    slot: int | None = None
    computed: int = 0  # tokens whose keys and values are in the KV cache
    published: int = 0  # pages that others may borrow
    # where in the text the context begins: a text that has filled it goes on from its later half
    base: int = 0
    group: Grouped | None = None  # of texts that are written as one
    adapter: int = 0  # which of the engine's it is written with; 0 is none

    @property
    def context_ids(self) -> list[int]:
        """The tokens within the context."""
        ids = self.sample.row.ids
        return ids[self.base :] if self.base else ids

    @property
    def length(self) -> int:
        return len(self.sample.row.ids) - self.base

    @property
    def uncomputed(self) -> int:
        """Tokens to run before the next can be chosen; 1 while writing."""
        return self.length - self.computed

    @property
    def done(self) -> bool:
        return (
            self.sample.end is not None
            or self.request.cancelled
            or (self.group is not None and self.group.finished)
        )

    @property
    def waits_for_group(self) -> bool:
        """Whether its next token waits for others of its group."""
        return self.group is not None and self in self.group.logits

    def max_length(self, limit: int) -> int:
        """Tokens that it may come to have, in a context of `limit`."""
        own = self.sample.row.prompt + self.sample.row.config.max_tokens
        return min(limit, self.group.max_length if self.group is not None else own)

    def shift(self, limit: int) -> None:
        """Begin again with the later half of a full context."""
        self.base, self.computed = len(self.sample.row.ids) - (limit + 1) // 2, 0
        self.published = 0
