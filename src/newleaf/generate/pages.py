"""Memory for keys and values, in pages of a few tokens that sequences own, share and give back.

A page holds the same tokens of every layer, as kernels/attention.py draws it. Sequences whose texts begin alike share the pages of their
beginning, whatever windows the layers have: a page is known by its tokens and by the page before it, stays known while nobody uses it, and
is taken for other tokens, longest unused first, when memory runs out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.kernels.layout import LANES, PAGE
from newleaf.model import GPTConfig

BLOCK = 64 << 20  # bytes that are asked of the system at once, at most


class OutOfPagesError(Exception):
    """No page is left within the limit."""


class _Known(NamedTuple):
    """What a page holds: its tokens, after the page with the number `parent` in order of becoming known."""

    parent: int
    tokens: tuple[int, ...]


def shape_of(config: GPTConfig, dtype: torch.dtype) -> tuple[int, int, int]:
    """Layers times heads, filled width, and numbers that lie together in a page's keys."""
    return config.n_layer * config.n_kv_head, -(-config.head_dim // LANES) * LANES, 2 if dtype == torch.bfloat16 else 1


class Pages:
    """Pages of `slots` sequences of up to `max_length` tokens, in bf16 or fp32, of at most `limit` bytes (None: no limit)."""

    def __init__(self, config: GPTConfig, dtype: torch.dtype, slots: int, max_length: int, limit: int | None = None) -> None:
        self.config, self.dtype = config, dtype
        self.heads, self.width, self.pairs = shape_of(config, dtype)
        self.half_bytes = self.heads * PAGE * self.width * dtype.itemsize  # of a page's keys, and of its values
        self.most = None if limit is None else max(1, limit // (2 * self.half_bytes))
        self.table = np.zeros((slots, -(-max_length // PAGE)), dtype=np.int64)  # addresses, for the kernels
        self._owned: list[list[int]] = [[] for _ in range(slots)]
        self._pages: list[Tensor] = []
        self._users: list[int] = []
        self._free: list[int] = []
        self._known: dict[_Known, int] = {}
        self._about: dict[int, tuple[_Known, int]] = {}  # page → what it holds, and when it became known
        self._idle: dict[int, None] = {}  # known pages without users, longest unused first
        self._count = 0

    @property
    def slots(self) -> int:
        return len(self._owned)

    @property
    def nbytes(self) -> int:
        """Bytes taken so far."""
        return len(self._pages) * 2 * self.half_bytes

    def room(self) -> float:
        """Pages that could still be had."""
        return math.inf if self.most is None else self.most - len(self._pages) + len(self._free) + len(self._idle)

    def add_slots(self, count: int) -> None:
        self.table = np.concatenate([self.table, np.zeros((count, self.table.shape[1]), dtype=np.int64)])
        self._owned += [[] for _ in range(count)]

    def reserve(self, slot: int, length: int) -> None:
        """Pages for `length` tokens. Raises OutOfPagesError where the limit leaves none."""
        while len(self._owned[slot]) * PAGE < length:
            self._append(slot, self._new())

    def release(self, slot: int) -> None:
        """The sequence has ended; what is known of its pages stays until they are needed."""
        for page in reversed(self._owned[slot]):  # a text's end is forgotten before its beginning
            self._drop(page)
        self._owned[slot].clear()

    def borrow(self, slot: int, tokens: Sequence[int], whole: int = PAGE, kind: int = 0) -> int:
        """Give an empty slot the known pages of a text's beginning; returns how many tokens those hold, a multiple of `whole`.

        What is known is known for texts of one `kind`: under another adapter the same tokens have other keys and values.
        """
        pages, parent = [], -1 - kind
        for start in range(0, len(tokens) - PAGE + 1, PAGE):
            page = self._known.get(_Known(parent, tuple(tokens[start : start + PAGE])))
            if page is None:
                break
            pages.append(page)
            parent = self._about[page][1]
        for page in pages[: len(pages) * PAGE // whole * whole // PAGE]:
            self._users[page] += 1
            self._idle.pop(page, None)
            self._append(slot, page)
        return len(self._owned[slot]) * PAGE

    def publish(self, slot: int, tokens: Sequence[int], kind: int = 0) -> None:
        """The slot's pages hold these tokens, which have been read: others of its kind may borrow those that are full."""
        parent = -1 - kind
        for number, page in enumerate(self._owned[slot][: len(tokens) // PAGE]):
            about = _Known(parent, tuple(tokens[number * PAGE : (number + 1) * PAGE]))
            first = self._known.setdefault(about, page)
            if first not in self._about:
                self._about[first] = about, self._count
                self._count += 1
            parent = self._about[first][1]

    def fork(self, source: int, target: int, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another: full pages are shared, the last one is copied."""
        for page in self._owned[source][: length // PAGE]:
            self._users[page] += 1
            self._append(target, page)
        if length % PAGE:
            self.reserve(target, length)
            self._pages[self._owned[target][-1]].copy_(self._pages[self._owned[source][length // PAGE]])

    def write(self, slot: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Take keys and values [layers, K, T, D] for positions from `start` on; pages must be reserved."""
        count, done = keys.shape[2], 0
        while done < count:
            page, at = divmod(start + done, PAGE)
            size = min(PAGE - at, count - done)
            into_keys, into_values = self._views(self._owned[slot][page])
            part = slice(done, done + size)
            lanes, tiles = torch.arange(at, at + size) % LANES, torch.arange(at, at + size) // LANES
            padded = torch.zeros(self.heads, size, self.width, dtype=self.dtype)
            padded[..., : self.config.head_dim] = keys[:, :, part].flatten(0, 1)
            into_keys[:, tiles, :, lanes] = padded.view(self.heads, size, -1, self.pairs).transpose(0, 1)
            into_values[:, at : at + size, : self.config.head_dim] = values[:, :, part].flatten(0, 1)
            done += size

    def gather(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, K, length, D] of the first tokens."""
        dim, shape = self.config.head_dim, (self.config.n_layer, self.config.n_kv_head, -1, self.config.head_dim)
        views = [self._views(page) for page in self._owned[slot][: -(-length // PAGE)]]
        keys = torch.cat([keys.transpose(2, 3).reshape(self.heads, PAGE, self.width) for keys, _ in views], dim=1)[:, :length, :dim]
        values = torch.cat([values for _, values in views], dim=1)[:, :length, :dim]
        return keys.reshape(shape), values.reshape(shape)

    def _views(self, page: int) -> tuple[Tensor, Tensor]:
        """A page's keys [layers · K, PAGE/16, D/pairs, 16, pairs] and values [layers · K, PAGE, D]."""
        both = self._pages[page].view(self.dtype).view(2, -1)
        return both[0].view(self.heads, PAGE // LANES, -1, LANES, self.pairs), both[1].view(self.heads, PAGE, self.width)

    def _append(self, slot: int, page: int) -> None:
        self.table[slot, len(self._owned[slot])] = self._pages[page].data_ptr()
        self._owned[slot].append(page)

    def _drop(self, page: int) -> None:
        self._users[page] -= 1
        if not self._users[page]:
            if page in self._about:
                self._idle[page] = None
            else:
                self._free.append(page)

    def _new(self) -> int:
        if not self._free:
            if self.most is None or len(self._pages) < self.most:
                self._grow()
            elif self._idle:
                page = next(iter(self._idle))
                del self._idle[page], self._known[self._about.pop(page)[0]]
                self._free.append(page)
            else:
                raise OutOfPagesError(f"all {self.most} pages of {PAGE} tokens are in use")
        page = self._free.pop()
        self._users[page] = 1
        return page

    def _grow(self) -> None:
        """As many pages again as there are, within bounds; zeros, since what fills heads up to whole vectors is never written."""
        have, each = len(self._pages), 2 * self.half_bytes
        count = max(1, min(max(have, 1), BLOCK // each, (self.most or have + BLOCK) - have))
        self._pages += torch.zeros(count, each, dtype=torch.uint8).unbind()
        self._users += [0] * count
        self._free += range(have + count - 1, have - 1, -1)
