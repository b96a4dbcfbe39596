"""Pages of keys and values as PyTorch reads them: one tensor on the network's device, from which each batch
gathers its texts'."""

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
    """Keys and values [pages, layers of a page, PAGE, K, D]; with torch.int8 codes, whose scales lie in
    tensors of their own.

    The table of pages has their numbers. `layers` is, for each of the network's, its group of layers and its
    place in that group's pages.
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
        """As many pages again as there are; zeros, since a batch reads whole pages, and what is masked must
        still be a number."""
        count = int(max(1, min(max(len(self.keys), 16), most)))
        grown = (torch.cat((tensor, tensor.new_zeros(count, *tensor.shape[1:]))) for tensor in self._tensors)
        self.keys, self.values, self.key_scales, self.value_scales = grown
        return count

    def copy(self, source: int, target: int) -> None:
        for tensor in self._tensors:
            tensor[target] = tensor[source]

    def renew(self, page: int) -> None:
        """What a text that overflowed has left there is no number."""
        for tensor in self._tensors:
            tensor[page] = 0

    def entry(self, page: int) -> int:
        return page

    def write(self, pages: Tensor, offsets: Tensor, place: int, keys: Tensor, values: Tensor) -> None:
        """Keep keys and values [N, K, D] of one layer at these offsets [N] in these pages [N]."""
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
    """The next tokens of one text: `count` of them, after the `start` that its slot holds."""

    slot: int
    start: int
    count: int


class RaggedBatch:
    """Texts of different lengths, a row each, filled up at the end: the network's cache for one pass, and who
    sees whom.

    Their pages must be reserved. Tokens that fill a row up stand where its last one does, and are not kept.
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
        """Keep new keys and values [B, K, T, D] of one layer; all come back [B, K, S, D], from the first page
        that a window sees."""
        group, place = self.memory.layers[layer]
        table = self._table(group)
        own = (x.transpose(1, 2)[self._rows, self._columns] for x in (keys, values))
        self.memory.write(table.new, self._new_at % PAGE, place, *own)
        found = self.memory.read(table.pages, place, keys.dtype)
        return found[0][:, :, : table.seen], found[1][:, :, : table.seen]

    def mark_real(self, real: Tensor | None, count: int) -> None:
        """What fills rows up is known from the spans."""
        assert real is None

    def advance(self, count: int) -> None:
        """A batch is for one pass."""

    def _group_of(self, window: int) -> int:
        """A group of layers with this window; those with the same one have their pages at the same places."""
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
                # its own, so that nobody else's numbers come near it
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
    """Of one group of layers: its pages [B, M], the first position in them [B], how many tokens a row has
    from there on, at most, and the pages [N] of the new tokens."""

    pages: Tensor
    first: Tensor
    seen: int
    new: Tensor
