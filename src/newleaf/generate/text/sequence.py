"""A sequence: one text in the engine, its slot, and how many of its tokens are in the KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from newleaf.generate.text.text_state import TextState

if TYPE_CHECKING:
    from newleaf.generate.text.request import Request


class Grouped(Protocol):
    """The group of a sequence, as the sequence and the scheduler see it (decoding/sequence_group.py)."""

    slot_count: int
    max_length: int  # tokens of its longest sequence
    finished: bool
    logits: dict[Sequence, Tensor]  # of this step so far
    members: list[tuple[Sequence, ...]]
    spare_slots: list[int]

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences of the group."""


@dataclass(eq=False)
class Sequence:
    """One text being generated. `slot` is its place in the KV cache; None while it waits."""

    sample: TextState
    request: Request
    slot: int | None = None
    computed: int = 0  # tokens whose keys and values are in the KV cache
    published: int = 0  # full pages that others may reuse
    # index of the context's first token: a text that fills the context continues from its later half
    base: int = 0
    group: Grouped | None = None  # of sequences that decode together
    adapter: int = 0  # the number of its adapter; 0 is none

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
        """Tokens to run before the next can be sampled; 1 while decoding."""
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
        """Whether its next token waits for other sequences of its group."""
        return self.group is not None and self in self.group.logits

    def max_length(self, limit: int) -> int:
        """The most tokens it may reach, in a context of `limit`."""
        own = self.sample.row.prompt + self.sample.row.config.max_tokens
        return min(limit, self.group.max_length if self.group is not None else own)

    def shift(self, limit: int) -> None:
        """Continue from the later half of a full context."""
        self.base, self.computed = len(self.sample.row.ids) - (limit + 1) // 2, 0
        self.published = 0
