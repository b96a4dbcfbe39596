"""Keys and values of the tokens read so far, so that each new token is computed once."""

from __future__ import annotations

import torch
from torch import Tensor

from newleaf.model.config import GPTConfig


class KVCache:
    """Room for `max_length` tokens of `batch_size` sequences: per layer two tensors [B, K, max_length, D].

    `GPT.forward(ids, cache=cache)` appends; the results equal those of one pass over all tokens. `length` counts what is held.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        max_length: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_length = max_length or config.context_length
        shape = (config.n_layer, batch_size, config.n_kv_head, self.max_length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.real = torch.zeros((batch_size, self.max_length), dtype=torch.bool, device=device)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, K, T, D] of one layer and return all of its [B, K, length + T, D]. `advance` moves on."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def note(self, real: Tensor | None, count: int) -> Tensor:
        """Record which of `count` new tokens are real ([B, count], None for all); returns the whole record [B, length + count].

        Raises ValueError when they do not fit.
        """
        end = self.length + count
        if end > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens, and {end} were asked of it")
        self.real[:, self.length : end] = True if real is None else real
        return self.real[:, :end]

    def advance(self, count: int) -> None:
        self.length += count

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""
        self.keys, self.values, self.real = self.keys[:, rows], self.values[:, rows], self.real[rows]
