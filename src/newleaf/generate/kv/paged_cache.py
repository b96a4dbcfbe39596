"""Memory for keys and values, in pages of a few tokens that sequences own, share and give back.

A page holds some tokens of the layers of one layer group (generate/kv/layer_groups.py), as
generate/kernels/kv_pages.py draws it. Sequences whose texts begin alike share the pages of their
beginning: a page is known by its tokens and by the text before it, stays known while nobody uses it, and is
taken for other tokens, longest unused first, when memory runs out. Where layers have windows, a text lets go
of the pages that its windows have passed; of those some stay known, for texts that part from it there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.kv.layer_groups import MAX_ROLLBACK, head_bytes, layer_groups_of, width_of
from newleaf.model import GPTConfig

# pages of each layer group with windows that these have passed and that are kept all the same, while no
# memory is lacking
MAX_PASSED_PAGES = 256


class OutOfPagesError(Exception):
    """No page is left within the limit."""


class _Known(NamedTuple):
    """A text up to the end of a page: the page's tokens, after the text with the number `parent`."""

    parent: int
    tokens: tuple[int, ...]


@dataclass
class _Owned:
    """A slot's pages in one layer group, after the first `passed`, which windows need no more."""

    passed: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.passed + len(self.pages)


class PageStorage(Protocol):
    """Where pages lie. Pages are numbered from 0 in the order in which they were added."""

    page_bytes: int

    def add(self, most: float) -> int:
        """Room for more pages, at least one and no more than `most`; returns how many."""

    def copy(self, source: int, target: int) -> None:
        """Let a page hold what another one holds."""

    def renew(self, page: int) -> None:
        """A page that was in use is going to hold other tokens."""

    def entry(self, page: int) -> int:
        """What the table of pages has for a page."""


class AddressedPageStorage:
    """Pages as the kernels read them, whose table has addresses. Numbers are fp32, bf16, or codes
    (torch.int8) with scales."""

    BLOCK = 64 << 20  # bytes that are asked of the system at once, at most

    def __init__(self, config: GPTConfig, dtype: torch.dtype) -> None:
        self.width = width_of(config)
        self.key_bytes, value_bytes = head_bytes(config, dtype)
        self.head_bytes = self.key_bytes + value_bytes
        self.layer_bytes = config.n_kv_head * self.head_bytes
        self.page_bytes = len(layer_groups_of(config)[0].layers) * self.layer_bytes
        self._pages: list[Tensor] = []

    def add(self, most: float) -> int:
        """As many pages again as there are, within bounds; zeros, since what fills heads up to whole vectors
        is never written."""
        have = len(self._pages)
        count = int(max(1, min(max(have, 1), self.BLOCK // self.page_bytes, most)))
        self._pages += torch.zeros(count, self.page_bytes, dtype=torch.uint8).unbind()
        return count

    def copy(self, source: int, target: int) -> None:
        self._pages[target].copy_(self._pages[source])

    def renew(self, page: int) -> None:
        """Kernels read nothing but what was written of a page."""

    def entry(self, page: int) -> int:
        return self._pages[page].data_ptr()


class PagedCache:
    """Pages of `slots` sequences of up to `max_length` tokens, of at most `limit` bytes (None: no limit), in
    `memory` (None: as kernels read them). Numbers are fp32, bf16, or codes (torch.int8) with scales."""

    def __init__(
        self,
        config: GPTConfig,
        dtype: torch.dtype,
        slots: int,
        max_length: int,
        limit: int | None = None,
        memory: PageStorage | None = None,
    ) -> None:
        self.config, self.dtype = config, dtype
        self.memory = memory or AddressedPageStorage(config, dtype)
        self.layer_groups = layer_groups_of(config)
        self.page_bytes = self.memory.page_bytes
        self.most = None if limit is None else max(len(self.layer_groups), limit // self.page_bytes)
        # `entry` of each page
        self.table = np.zeros((len(self.layer_groups), slots, -(-max_length // PAGE)), dtype=np.int64)
        self._owned: list[list[_Owned]] = [[_Owned() for _ in self.layer_groups] for _ in range(slots)]
        # of each slot, the numbers of its text up to each page that is known
        self._texts: list[list[int]] = [[] for _ in range(slots)]
        self._users: list[int] = []  # of each page
        self._free: list[int] = []
        self._stale: set[int] = set()  # pages that have held tokens
        self._numbers: dict[_Known, int] = {}
        self._count = 0  # of numbers so far
        # a text's number and a layer group → the page that holds its end
        self._known: dict[tuple[int, int], int] = {}
        # page → the text, its number, and the layer group
        self._about: dict[int, tuple[_Known, int, int]] = {}
        self._idle: dict[int, None] = {}  # known pages without users, longest unused first
        self._passed: dict[int, None] = {}  # those among them that windows have passed

    @property
    def slots(self) -> int:
        return len(self._owned)

    @property
    def nbytes(self) -> int:
        """Bytes taken so far."""
        return len(self._users) * self.page_bytes

    @property
    def used(self) -> int:
        """Bytes of pages that texts have, or that are known."""
        return (len(self._users) - len(self._free)) * self.page_bytes

    def room(self) -> float:
        """Pages that could still be had."""
        return (
            math.inf
            if self.most is None
            else self.most - len(self._users) + len(self._free) + len(self._idle)
        )

    def need(self, length: int) -> int:
        """Pages that a text of so many tokens takes."""
        return sum(layer_group.most(length) for layer_group in self.layer_groups)

    def add_slots(self, count: int) -> None:
        more = np.zeros((len(self.layer_groups), count, self.table.shape[2]), dtype=np.int64)
        self.table = np.concatenate([self.table, more], axis=1)
        self._owned += [[_Owned() for _ in self.layer_groups] for _ in range(count)]
        self._texts += [[] for _ in range(count)]

    def reserve(self, slot: int, start: int, end: int) -> None:
        """Pages for tokens at positions `start` … `end` − 1; those that no window sees from BACK tokens
        before on are let go. Raises OutOfPagesError where the limit leaves none."""
        for layer_group, owned in zip(self.layer_groups, self._owned[slot], strict=True):
            passed = max(owned.passed, layer_group.first(max(0, start - MAX_ROLLBACK)))
            for page in owned.pages[: passed - owned.passed]:
                self._drop(page, passed=True)
            del owned.pages[: passed - owned.passed]
            owned.passed = passed
        for number, owned in enumerate(self._owned[slot]):
            while owned.end * PAGE < end:
                self._append(slot, number, self._new())

    def release(self, slot: int) -> None:
        """The sequence has ended; what is known of its pages stays until they are needed."""
        for number, owned in enumerate(self._owned[slot]):
            for page in reversed(owned.pages):  # a text's end is forgotten before its beginning
                self._drop(page)
            self._owned[slot][number] = _Owned()
        self._texts[slot].clear()

    def borrow(self, slot: int, tokens: Sequence[int], kind: int = 0) -> int:
        """Give an empty slot the known pages of a text's beginning; returns how many tokens those hold, a
        multiple of PAGE.

        What is known is known for texts of one `kind`: under another adapter the same tokens have other keys
        and values.
        """
        texts, parent = list[int](), -1 - kind
        for start in range(0, len(tokens) - PAGE + 1, PAGE):
            number = self._numbers.get(_Known(parent, tuple(tokens[start : start + PAGE])))
            if number is None:
                break
            texts.append(number)
            parent = number
        while texts and not self._holds(texts):
            texts.pop()
        for number, layer_group in enumerate(self.layer_groups):
            self._owned[slot][number] = _Owned(layer_group.first(len(texts) * PAGE))
            for text in texts[layer_group.first(len(texts) * PAGE) :]:
                page = self._known[text, number]
                self._users[page] += 1
                self._idle.pop(page, None)
                self._passed.pop(page, None)
                self._append(slot, number, page)
        self._texts[slot] = texts
        return len(texts) * PAGE

    def publish(self, slot: int, tokens: Sequence[int], kind: int = 0) -> None:
        """The slot's pages hold these tokens, which have been read: others of its kind may borrow those that
        are full."""
        texts = self._texts[slot]
        for at in range(len(texts), len(tokens) // PAGE):
            about = _Known(texts[-1] if texts else -1 - kind, tuple(tokens[at * PAGE : (at + 1) * PAGE]))
            if about not in self._numbers:
                self._numbers[about] = self._count
                self._count += 1
            texts.append(self._numbers[about])
            for number, owned in enumerate(self._owned[slot]):
                if owned.passed <= at < owned.end and (texts[-1], number) not in self._known:
                    page = owned.pages[at - owned.passed]
                    self._known[texts[-1], number] = page
                    self._about[page] = about, texts[-1], number

    def fork(self, source: int, target: int, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another: full pages are shared, the last one is
        copied."""
        full = length // PAGE
        self._texts[target] = self._texts[source][:full]
        for number, owned in enumerate(self._owned[source]):
            self._owned[target][number] = _Owned(owned.passed)
            for page in owned.pages[: full - owned.passed]:
                self._users[page] += 1
                self._append(target, number, page)
            if length % PAGE:
                page = self._new()
                self.memory.copy(owned.pages[full - owned.passed], page)
                self._append(target, number, page)

    def _holds(self, texts: list[int]) -> bool:
        """Whether what a text sees that goes on after these pages is still known."""
        return all(
            (text, number) in self._known
            for number, layer_group in enumerate(self.layer_groups)
            for text in texts[layer_group.first(len(texts) * PAGE) :]
        )

    def _append(self, slot: int, layer_group: int, page: int) -> None:
        owned = self._owned[slot][layer_group]
        self.table[layer_group, slot, owned.end] = self.memory.entry(page)
        owned.pages.append(page)

    def _drop(self, page: int, passed: bool = False) -> None:
        self._users[page] -= 1
        if self._users[page]:
            return
        if page not in self._about:
            self._free.append(page)
            return
        self._idle[page] = None
        if passed:
            self._passed[page] = None
            if len(self._passed) > MAX_PASSED_PAGES * sum(
                layer_group.window > 0 for layer_group in self.layer_groups
            ):
                self._forget(next(iter(self._passed)))

    def _forget(self, page: int) -> None:
        """An idle page is free for other tokens."""
        about, text, layer_group = self._about.pop(page)
        del self._known[text, layer_group], self._idle[page]
        self._passed.pop(page, None)
        if not any((text, number) in self._known for number in range(len(self.layer_groups))):
            del self._numbers[about]
        self._free.append(page)

    def _new(self) -> int:
        if not self._free:
            if self.most is None or len(self._users) < self.most:
                self._grow()
            elif self._idle:
                self._forget(next(iter(self._idle)))
            else:
                raise OutOfPagesError(f"all {self.most} pages of {PAGE} tokens are in use")
        page = self._free.pop()
        if page in self._stale:
            self.memory.renew(page)
        self._stale.add(page)
        self._users[page] = 1
        return page

    def _grow(self) -> None:
        have = len(self._users)
        count = self.memory.add(math.inf if self.most is None else self.most - have)
        self._users += [0] * count
        self._free += range(have + count - 1, have - 1, -1)
