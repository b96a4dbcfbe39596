"""Pages of the KV cache as PyTorch tensors, from which each batch gathers those of its sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.kv.layer_groups import layer_groups_of
from newleaf.generate.kv.paged_cache import PagedCache
from newleaf.model import GPTConfig
from newleaf.model.kv_cache import KEY_GROUP, dequantize_groups, quantize_groups


class TensorPageStorage:
    """Keys and values [pages, layers of a page, PAGE, K, D]; torch.int8 is codes, with scales beside them.

    The page table has page numbers. `layers` maps a layer to its layer group and its index in that group.
    """

    def __init__(self, config: GPTConfig, dtype: torch.dtype, device: torch.device) -> None:
        groups = layer_groups_of(config)
        self.layers = {
            layer: (number, place)
            for number, group in enumerate(groups)
            for place, layer in enumerate(group.layers)
        }
        shape = (0, len(groups[0].layers), PAGE, config.n_kv_head)
        self.keys, self.values = (
            torch.zeros(*shape, config.head_dim, dtype=dtype, device=device) for _ in range(2)
        )
        scales = (-(-config.head_dim // KEY_GROUP), 1) if dtype == torch.int8 else (0, 0)
        self.key_scales, self.value_scales = (torch.zeros(*shape, count, device=device) for count in scales)
        self.page_bytes = sum(tensor.element_size() * math.prod(tensor.shape[1:]) for tensor in self._tensors)

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.keys, self.values, self.key_scales, self.value_scales

    def add(self, most: float) -> int:
        """Double the pages. They are zero: a batch reads full pages, and masked values must be finite."""
        count = int(max(1, min(max(len(self.keys), 16), most)))
        grown = (torch.cat((tensor, tensor.new_zeros(count, *tensor.shape[1:]))) for tensor in self._tensors)
        self.keys, self.values, self.key_scales, self.value_scales = grown
        return count

    def copy(self, source: int, target: int) -> None:
        for tensor in self._tensors:
            tensor[target] = tensor[source]

    def renew(self, page: int) -> None:
        """Clear the page: a sequence that overflowed may have left NaN."""
        for tensor in self._tensors:
            tensor[page] = 0

    def entry(self, page: int) -> int:
        return page

    def write(self, pages: Tensor, offsets: Tensor, place: int, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [N, K, D] of one layer at these offsets [N] of these pages [N]."""
        if self.keys.dtype != torch.int8:
            self.keys[pages, place, offsets], self.values[pages, place, offsets] = (
                keys.to(self.keys.dtype),
                values.to(self.keys.dtype),
            )
            return
        self.keys[pages, place, offsets], self.key_scales[pages, place, offsets] = quantize_groups(
            keys, KEY_GROUP
        )
        self.values[pages, place, offsets], self.value_scales[pages, place, offsets] = quantize_groups(
            values, values.shape[-1]
        )

    def read(self, table: Tensor, place: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, M · PAGE, D] of one layer in these pages [B, M]."""
        keys, values = (
            tensor[table, place].flatten(1, 2).transpose(1, 2) for tensor in (self.keys, self.values)
        )
        if self.keys.dtype != torch.int8:
            return keys.to(dtype), values.to(dtype)
        key_scales, value_scales = (
            tensor[table, place].flatten(1, 2).transpose(1, 2)
            for tensor in (self.key_scales, self.value_scales)
        )
        return dequantize_groups(keys, key_scales, KEY_GROUP, dtype), dequantize_groups(
            values, value_scales, values.shape[-1], dtype
        )


@dataclass(frozen=True)
class Span:
    """The next `count` tokens of one sequence, after the `start` tokens in its slot."""

    slot: int
    start: int
    count: int


class RaggedBatch:
    """Sequences of different lengths, padded at the end: the KV cache and the mask of one forward pass.

    Their pages must be reserved. Padding has the position of the row's last token, and is not stored.
    """

    length = 0  # of what all rows share; where each begins is in its span

    def __init__(self, pages: PagedCache, memory: TensorPageStorage, spans: Sequence[Span]) -> None:
        self.pages, self.memory, self.spans = pages, memory, spans
        self.device = memory.keys.device
        self.width = max(span.count for span in spans)
        at = [[span.start + min(column, span.count - 1) for column in range(self.width)] for span in spans]
        real = [(row, column) for row, span in enumerate(spans) for column in range(span.count)]
        self._at = torch.tensor(at, device=self.device)  # [B, T]
        # [N] of the tokens that fill nothing up
        self._rows, self._columns = torch.tensor(real, device=self.device).unbind(1)
        self._new_at = self._at[self._rows, self._columns]
        self._tables: dict[int, _Table] = {}  # by group of layers

    # ---- where tokens stand, and who sees whom (model/masks.py: Placement)

    def context_needed(self, past: int) -> int:
        return max(span.start + span.count for span in self.spans)

    def positions(self, past: int) -> Tensor:
        """Positions [B, T]."""
        return self._at

    def mask(self, past: int, window: int) -> Tensor | None:
        """True where a query may look: [B, 1, T, S]; None for one text's token that sees all, and for a whole
        text from its beginning."""
        if len(self.spans) == 1 and not window and (self.width == 1 or not self.spans[0].start):
            return None
        table = self._table(self._group_of(window))
        keys = table.first[:, None] + torch.arange(table.seen, device=self.device)  # [B, S]
        mask = keys[:, None, :] <= self._at[:, :, None]
        if window:
            mask = mask & (keys[:, None, :] > self._at[:, :, None] - window)
        return mask[:, None]

    # ---- the network's cache (model/kv_cache.py: Cache)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values [B, K, T, D]; returns all [B, K, S, D] from the window's first page on."""
        group, place = self.memory.layers[layer]
        table = self._table(group)
        own = (x.transpose(1, 2)[self._rows, self._columns] for x in (keys, values))
        self.memory.write(table.new, self._new_at % PAGE, place, *own)
        found = self.memory.read(table.pages, place, keys.dtype)
        return found[0][:, :, : table.seen], found[1][:, :, : table.seen]

    def mark_real(self, real: Tensor | None, count: int) -> None:
        """Nothing to do: padding follows from the spans."""
        assert real is None

    def advance(self, count: int) -> None:
        """Nothing to do: a batch is for one pass."""

    def _group_of(self, window: int) -> int:
        """A layer group with this window; all groups with one window have pages at the same indices."""
        own = window if window < self.pages.config.context_length else 0
        return next(number for number, group in enumerate(self.pages.layer_groups) if group.window == own)

    def _table(self, number: int) -> _Table:
        if number not in self._tables:
            group = self.pages.layer_groups[number]
            first = [group.first(span.start) for span in self.spans]
            last = [-(-(span.start + span.count) // PAGE) for span in self.spans]
            width = max(end - begin for begin, end in zip(first, last, strict=True))
            rows = []
            for span, begin, end in zip(self.spans, first, last, strict=True):
                own = self.pages.table[number, span.slot, begin:end].tolist()
                # padded with its own page, so that no other sequence's values are read
                rows.append(own + [own[-1]] * (width - len(own)))
            pages, begins = torch.tensor(rows, device=self.device), torch.tensor(first, device=self.device)
            new = pages[self._rows, self._new_at // PAGE - begins[self._rows]]
            seen = max(
                span.start + span.count - PAGE * begin for span, begin in zip(self.spans, first, strict=True)
            )
            self._tables[number] = _Table(pages, PAGE * begins, seen, new)
        return self._tables[number]


@dataclass(frozen=True)
class _Table:
    """The pages of one layer group [B, M], the first position in them [B], the most tokens that a row has
    from there on, and the pages [N] of the new tokens."""

    pages: Tensor
    first: Tensor
    seen: int
    new: Tensor
