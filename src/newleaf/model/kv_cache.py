"""Keys and values of the tokens read so far, so that each new token is computed once."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from newleaf.model.gpt_config import GPTConfig

# number formats that a person may ask for, and their types
CACHES = {"bf16": torch.bfloat16, "int8": torch.int8}


class Cache(Protocol):
    """What the network needs of one."""

    length: int

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, K, T, D] of one layer; all of its [B, K, length + T, D], or the last
        of them that queries see."""

    def note(self, real: Tensor | None, count: int) -> Tensor | None:
        """Record which of `count` new tokens are real ([B, count], None for all); the whole record [B, length
        + count], or None where there is no padding."""

    def advance(self, count: int) -> None:
        """The new tokens are in every layer."""


KEY_GROUP = 32  # numbers of a key that share a scale; a value has one


def to_codes(x: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Numbers [..., D] as signed bytes, with a scale fp32 [..., D/group] for each group, a 127th of its
    largest."""
    groups = F.pad(x.float(), (0, -x.shape[-1] % group)).reshape(*x.shape[:-1], -1, group)
    top = groups.abs().amax(-1, keepdim=True)
    codes = (groups * (127.0 / top).where(top > 1e-30, 0.0)).round().to(torch.int8)
    return codes.flatten(-2)[..., : x.shape[-1]], top.squeeze(-1) / 127.0


def from_codes(codes: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> Tensor:
    return (codes * scales.repeat_interleave(group, dim=-1)[..., : codes.shape[-1]]).to(dtype)


class KVCache:
    """Room for `max_length` tokens of `batch_size` sequences: per layer two tensors [B, K, max_length, D].

    `GPT.forward(ids, cache=cache)` appends; the results equal those of one pass over all tokens. `length`
    counts what is held. With torch.int8 a number is kept as a byte, with a scale for each head's value and
    for every 32 numbers of its key: rounded once, when it is stored.
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
        groups = (-(-config.head_dim // KEY_GROUP), 1) if dtype == torch.int8 else (0, 0)
        self.key_scales, self.value_scales = (
            torch.zeros(*shape[:-1], count, device=device) for count in groups
        )
        self.real = torch.zeros((batch_size, self.max_length), dtype=torch.bool, device=device)
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, with their scales."""
        return sum(part.nbytes for part in (self.keys, self.values, self.key_scales, self.value_scales))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, K, T, D] of one layer and return all of its [B, K, length + T, D].
        `advance` moves on."""
        end, dtype = self.length + keys.shape[2], keys.dtype
        new = slice(self.length, end)
        if self.keys.dtype != torch.int8:
            self.keys[layer, :, :, new], self.values[layer, :, :, new] = keys, values
            return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]
        width = keys.shape[-1]
        self.keys[layer, :, :, new], self.key_scales[layer, :, :, new] = to_codes(keys, KEY_GROUP)
        self.values[layer, :, :, new], self.value_scales[layer, :, :, new] = to_codes(values, width)
        all_keys = from_codes(
            self.keys[layer, :, :, :end], self.key_scales[layer, :, :, :end], KEY_GROUP, dtype
        )
        return all_keys, from_codes(
            self.values[layer, :, :, :end], self.value_scales[layer, :, :, :end], width, dtype
        )

    def note(self, real: Tensor | None, count: int) -> Tensor:
        """Record which of `count` new tokens are real ([B, count], None for all); returns the whole record
        [B, length + count].

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
        for name in ("keys", "values", "key_scales", "value_scales"):
            setattr(self, name, getattr(self, name)[:, rows])
        self.real = self.real[rows]

    def take(self, other: KVCache, length: int) -> None:
        """Hold the first `length` tokens of a smaller cache."""
        for name in ("keys", "values", "key_scales", "value_scales"):
            getattr(self, name)[:, :, :, :length] = getattr(other, name)[:, :, :, :length]
        self.real[:, :length] = other.real[:, :length]
        self.length = length
