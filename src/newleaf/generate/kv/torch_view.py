"""The pages of one slot as the KV cache of a PyTorch forward pass, a layer at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from newleaf.generate.kernels.layout import PAGE
from newleaf.model import GPTConfig


class TorchCacheView:
    """The pages of one slot, which must be reserved, after `start` tokens. `state` is the table that
    the kernels find pages by."""

    def __init__(self, config: GPTConfig, state: Any, slot: int, start: int) -> None:
        self.config, self.state, self.slot, self.length = config, state, slot, start

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [1, K, T, D]; returns all, as stored, from the window's first page on."""
        from newleaf.generate.kernels.page_copy import read_pages, write_pages

        window = self.config.windows[layer] if self.config.windows else 0
        end, dtype = self.length + keys.shape[2], keys.dtype
        first = max(0, self.length + 1 - window) // PAGE * PAGE if window else 0
        new = [x.float().contiguous() for x in (keys, values)]
        write_pages(
            self.state, layer, self.slot, self.length, keys.shape[2], new[0].data_ptr(), new[1].data_ptr()
        )
        old = torch.empty(
            2,
            1,
            keys.shape[1],
            end - first,
            keys.shape[3],
            dtype=dtype if dtype == torch.bfloat16 else torch.float32,
        )
        read_pages(
            self.state,
            layer,
            self.slot,
            first,
            end,
            old[0].data_ptr(),
            old[1].data_ptr(),
            int(dtype == torch.bfloat16),
        )
        return old[0].to(dtype), old[1].to(dtype)

    def mark_real(self, real: Tensor | None, count: int) -> None:
        """Nothing to do: there is no padding."""
        assert real is None

    def advance(self, count: int) -> None:
        self.length += count
