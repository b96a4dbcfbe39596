"""The paged KV cache: its page table, the pages of each slot, and prefix caching.

A page holds PAGE tokens of one layer group (layer_groups.py); generate/kernels/kv_pages.py draws it.
Sequences with the same prefix share its pages. A full page is cached under its tokens and the prefix before
it. It stays cached while unused, and is evicted, least recently used first, when memory runs out.
Sequences release the pages that their windows have passed; some stay cached, for other continuations.
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

# cached pages behind the windows of a layer group
MAX_PASSED_PAGES = 256


class OutOfPagesError(Exception):
    """The limit leaves no free page."""


class _PageKey(NamedTuple):
    """The key of a cached page: its tokens, after the prefix with the number `parent`."""

    parent: int
    tokens: tuple[int, ...]


@dataclass
class _SlotPages:
    """A slot's pages in one layer group, after the first `passed`, which its window no longer sees."""

    passed: int = 0
    pages: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.passed + len(self.pages)


class PageStorage(Protocol):
    """The memory of pages, which are numbered from 0 in the order in which they were added."""

    page_bytes: int

    def add(self, most: float) -> int:
        """Allocate at least one page and at most `most`; returns how many."""

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""

    def renew(self, page: int) -> None:
        """Prepare a used page for other tokens."""

    def entry(self, page: int) -> int:
        """The entry of a page in the page table."""


class AddressedPageStorage:
    """Pages as the kernels read them; the page table has their addresses.

    Keys and values are fp32, bf16, or codes (torch.int8) with scales.
    """

    BLOCK = 64 << 20  # bytes that are allocated at once, at most

    def __init__(self, config: GPTConfig, dtype: torch.dtype) -> None:
        self.width = width_of(config)
        self.key_bytes, value_bytes = head_bytes(config, dtype)
        self.head_bytes = self.key_bytes + value_bytes
        self.layer_bytes = config.n_kv_head * self.head_bytes
        self.page_bytes = len(layer_groups_of(config)[0].layers) * self.layer_bytes
        self._pages: list[Tensor] = []

    def add(self, most: float) -> int:
        """Double the pages, within bounds. They are zero, since the padding of heads is never written."""
        have = len(self._pages)
        count = int(max(1, min(max(have, 1), self.BLOCK // self.page_bytes, most)))
        self._pages += torch.zeros(count, self.page_bytes, dtype=torch.uint8).unbind()
        return count

    def copy(self, source: int, target: int) -> None:
        self._pages[target].copy_(self._pages[source])

    def renew(self, page: int) -> None:
        """Nothing to do: kernels read only what was written."""

    def entry(self, page: int) -> int:
        return self._pages[page].data_ptr()


class PagedCache:
    """Pages of `slots` sequences of up to `max_length` tokens, within `limit` bytes (None: no limit).

    `memory` holds the pages (None: as kernels read them). `dtype` is fp32, bf16, or torch.int8 for codes.
    """

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
        # the page table: `entry` of each page
        self.table = np.zeros((len(self.layer_groups), slots, -(-max_length // PAGE)), dtype=np.int64)
        self._owned: list[list[_SlotPages]] = [
            [_SlotPages() for _ in self.layer_groups] for _ in range(slots)
        ]
        # by slot, the number of the prefix that ends with each cached page
        self._prefixes: list[list[int]] = [[] for _ in range(slots)]
        self._users: list[int] = []  # by page: how many slots use it
        self._free: list[int] = []
        self._stale: set[int] = set()  # pages that held tokens before
        self._numbers: dict[_PageKey, int] = {}
        self._count = 0  # of prefix numbers so far
        # prefix number and layer group → its last page
        self._cached: dict[tuple[int, int], int] = {}
        # page → key, prefix number, layer group
        self._keys: dict[int, tuple[_PageKey, int, int]] = {}
        self._idle: dict[int, None] = {}  # cached pages that no slot uses, least recently used first
        self._passed: dict[int, None] = {}  # those of them behind a window

    @property
    def slots(self) -> int:
        return len(self._owned)

    @property
    def nbytes(self) -> int:
        """Bytes allocated so far."""
        return len(self._users) * self.page_bytes

    @property
    def used(self) -> int:
        """Bytes of pages that are in use or cached."""
        return (len(self._users) - len(self._free)) * self.page_bytes

    def available(self) -> float:
        """Pages that are free, or could be allocated or evicted."""
        return (
            math.inf
            if self.most is None
            else self.most - len(self._users) + len(self._free) + len(self._idle)
        )

    def need(self, length: int) -> int:
        """Pages that a sequence of so many tokens takes."""
        return sum(layer_group.max_pages(length) for layer_group in self.layer_groups)

    def add_slots(self, count: int) -> None:
        more = np.zeros((len(self.layer_groups), count, self.table.shape[2]), dtype=np.int64)
        self.table = np.concatenate([self.table, more], axis=1)
        self._owned += [[_SlotPages() for _ in self.layer_groups] for _ in range(count)]
        self._prefixes += [[] for _ in range(count)]

    def reserve(self, slot: int, start: int, end: int) -> None:
        """Pages for tokens at positions `start` … `end` − 1. Raises OutOfPagesError at the limit.

        Pages that no window sees from MAX_ROLLBACK tokens before `start` on are released.
        """
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
        """Release a slot's pages; those that are cached stay until memory is needed."""
        for number, owned in enumerate(self._owned[slot]):
            for page in reversed(owned.pages):  # so that a suffix is evicted before its prefix
                self._drop(page)
            self._owned[slot][number] = _SlotPages()
        self._prefixes[slot].clear()

    def borrow(self, slot: int, tokens: Sequence[int], kind: int = 0) -> int:
        """Give an empty slot the cached pages of a prefix; returns its tokens, a multiple of PAGE.

        Prefixes are cached by `kind`: under another adapter the same tokens have other keys and values.
        """
        prefixes, parent = list[int](), -1 - kind
        for start in range(0, len(tokens) - PAGE + 1, PAGE):
            number = self._numbers.get(_PageKey(parent, tuple(tokens[start : start + PAGE])))
            if number is None:
                break
            prefixes.append(number)
            parent = number
        while prefixes and not self._is_cached(prefixes):
            prefixes.pop()
        for number, layer_group in enumerate(self.layer_groups):
            self._owned[slot][number] = _SlotPages(layer_group.first(len(prefixes) * PAGE))
            for text in prefixes[layer_group.first(len(prefixes) * PAGE) :]:
                page = self._cached[text, number]
                self._users[page] += 1
                self._idle.pop(page, None)
                self._passed.pop(page, None)
                self._append(slot, number, page)
        self._prefixes[slot] = prefixes
        return len(prefixes) * PAGE

    def publish(self, slot: int, tokens: Sequence[int], kind: int = 0) -> None:
        """Cache the slot's full pages, which hold these tokens, for other sequences of the kind."""
        prefixes = self._prefixes[slot]
        for at in range(len(prefixes), len(tokens) // PAGE):
            key = _PageKey(
                prefixes[-1] if prefixes else -1 - kind, tuple(tokens[at * PAGE : (at + 1) * PAGE])
            )
            if key not in self._numbers:
                self._numbers[key] = self._count
                self._count += 1
            prefixes.append(self._numbers[key])
            for number, owned in enumerate(self._owned[slot]):
                if owned.passed <= at < owned.end and (prefixes[-1], number) not in self._cached:
                    page = owned.pages[at - owned.passed]
                    self._cached[prefixes[-1], number] = page
                    self._keys[page] = key, prefixes[-1], number

    def fork(self, source: int, target: int, length: int) -> None:
        """Give an empty slot the first `length` tokens of another: full pages shared, the last copied."""
        full = length // PAGE
        self._prefixes[target] = self._prefixes[source][:full]
        for number, owned in enumerate(self._owned[source]):
            self._owned[target][number] = _SlotPages(owned.passed)
            for page in owned.pages[: full - owned.passed]:
                self._users[page] += 1
                self._append(target, number, page)
            if length % PAGE:
                page = self._new()
                self.memory.copy(owned.pages[full - owned.passed], page)
                self._append(target, number, page)

    def _is_cached(self, prefixes: list[int]) -> bool:
        """Whether all pages that a continuation of this prefix sees are cached."""
        return all(
            (text, number) in self._cached
            for number, layer_group in enumerate(self.layer_groups)
            for text in prefixes[layer_group.first(len(prefixes) * PAGE) :]
        )

    def _append(self, slot: int, layer_group: int, page: int) -> None:
        owned = self._owned[slot][layer_group]
        self.table[layer_group, slot, owned.end] = self.memory.entry(page)
        owned.pages.append(page)

    def _drop(self, page: int, passed: bool = False) -> None:
        self._users[page] -= 1
        if self._users[page]:
            return
        if page not in self._keys:
            self._free.append(page)
            return
        self._idle[page] = None
        if passed:
            self._passed[page] = None
            if len(self._passed) > MAX_PASSED_PAGES * sum(
                layer_group.window > 0 for layer_group in self.layer_groups
            ):
                self._evict(next(iter(self._passed)))

    def _evict(self, page: int) -> None:
        """Remove an idle page from the cache, and free it."""
        key, text, layer_group = self._keys.pop(page)
        del self._cached[text, layer_group], self._idle[page]
        self._passed.pop(page, None)
        if not any((text, number) in self._cached for number in range(len(self.layer_groups))):
            del self._numbers[key]
        self._free.append(page)

    def _new(self) -> int:
        if not self._free:
            if self.most is None or len(self._users) < self.most:
                self._grow()
            elif self._idle:
                self._evict(next(iter(self._idle)))
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
