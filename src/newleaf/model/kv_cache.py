"""The KV cache: keys and values of earlier tokens, so that each token is computed once."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int8
from torch import Tensor

from newleaf.model.gpt_config import GPTConfig

CACHE_DTYPES = {"bf16": torch.bfloat16, "int8": torch.int8}  # number formats by the option's value
KEY_GROUP = 32  # numbers of an 8-bit key that share a scale; a value has one scale


class Cache(Protocol):
    """What the network needs of a KV cache."""

    length: int

    def append(
        self, layer: int, keys: Float[Tensor, "B K T D"], values: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Store new keys and values of a layer; return all of its, or the last of them that queries see."""

    def mark_real(self, real: Bool[Tensor, "B T"] | None, count: int) -> Bool[Tensor, "B past+T"] | None:
        """Record which new tokens are real (None: all); return the full record, None without padding."""

    def advance(self, count: int) -> None:
        """The new tokens are in every layer."""


def quantize_groups(
    x: Float[Tensor, "*batch D"], group: int
) -> tuple[Int8[Tensor, "*batch D"], Float[Tensor, "*batch D/group"]]:
    """Numbers as signed bytes with an fp32 scale for each group: a 127th of its largest."""
    groups = F.pad(x.float(), (0, -x.shape[-1] % group)).reshape(*x.shape[:-1], -1, group)
    top = groups.abs().amax(-1, keepdim=True)
    codes = (groups * (127.0 / top).where(top > 1e-30, 0.0)).round().to(torch.int8)
    return codes.flatten(-2)[..., : x.shape[-1]], top.squeeze(-1) / 127.0


def dequantize_groups(
    codes: Int8[Tensor, "*batch D"], scales: Float[Tensor, "*batch D/group"], group: int, dtype: torch.dtype
) -> Float[Tensor, "*batch D"]:
    """The numbers that `quantize_groups` rounded."""
    return (codes * scales.repeat_interleave(group, dim=-1)[..., : codes.shape[-1]]).to(dtype)


class KVCache:
    """Memory for `max_length` tokens of `batch_size` sequences: per layer two tensors [B, K, max_length, D].

    `GPT.forward(ids, cache=cache)` appends; the results equal those of one pass over all tokens. `length` is
    the number of tokens held. With torch.int8 a number is stored in a byte, with a scale for each head's
    value and for every 32 numbers of its key: rounded once, when it is stored.
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
        tensors = (self.keys, self.values, self.key_scales, self.value_scales)
        return sum(tensor.nbytes for tensor in tensors)

    def append(
        self, layer: int, keys: Float[Tensor, "B K T D"], values: Float[Tensor, "B K T D"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S D"]]:
        """Store new keys and values of a layer and return all of its, S = length + T; `advance` moves on."""
        end, dtype, width = self.length + keys.shape[2], keys.dtype, keys.shape[-1]
        new, held = _tokens(layer, self.length, end), _tokens(layer, 0, end)
        if self.keys.dtype != torch.int8:
            self.keys[new], self.values[new] = keys, values
            return self.keys[held], self.values[held]
        self.keys[new], self.key_scales[new] = quantize_groups(keys, KEY_GROUP)
        self.values[new], self.value_scales[new] = quantize_groups(values, width)
        all_keys = dequantize_groups(self.keys[held], self.key_scales[held], KEY_GROUP, dtype)
        return all_keys, dequantize_groups(self.values[held], self.value_scales[held], width, dtype)

    def mark_real(self, real: Bool[Tensor, "B T"] | None, count: int) -> Bool[Tensor, "B past+T"]:
        """Record which of `count` new tokens are real (None: all); return the full record.

        Raises ValueError when they do not fit.
        """
        end = self.length + count
        if end > self.max_length:
            raise ValueError(f"the cache holds {self.max_length} tokens, and {end} were asked of it")
        self.real[:, self.length : end] = True if real is None else real
        return self.real[:, :end]

    def advance(self, count: int) -> None:
        self.length += count


def _tokens(layer: int, start: int, end: int) -> tuple[int, slice, slice, slice]:
    """The index of some tokens of a layer in [L, B, K, T, D]."""
    return layer, slice(None), slice(None), slice(start, end)
