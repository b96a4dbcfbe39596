"""Token ids to vectors, with learned or sinusoidal positions added where the configuration has them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from newleaf.model.gpt_config import GPTConfig


def sinusoidal_table(length: int, width: int) -> Float[Tensor, "T C"]:
    """Sines in the even columns and cosines in the odd ones, in fp32 (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    table = torch.empty(length, width)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


def _table(rows: int, width: int) -> nn.Embedding:
    """An uninitialized embedding: nn.Embedding's own drawing imports for seconds on torch's meta device."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Embedding(nn.Module):
    """The sum of each token's vector and its position's, unless positions are rotary."""

    position: nn.Embedding | None
    sinusoids: Tensor | None

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.kind = config.positions
        self.token = _table(config.vocab_size, config.n_embd)
        self.position = (
            _table(config.context_length, config.n_embd) if config.positions == "learned" else None
        )
        self.shape = (config.context_length, config.n_embd)
        self.dropout = config.embedding_dropout
        self.register_buffer("sinusoids", None, persistent=False)
        self.fill_sinusoids()

    def fill_sinusoids(self) -> None:
        """Compute the fixed table; call it again on a network that was built on torch's meta device."""
        if self.kind == "sinusoidal":
            self.sinusoids = sinusoidal_table(*self.shape)

    def forward(self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "*batch T"]) -> Float[Tensor, "B T C"]:
        x: Tensor = self.token(ids)
        if self.position is not None:
            x = x + self.position(positions)
        elif self.sinusoids is not None:
            x = x + self.sinusoids[positions].to(x.dtype)
        return F.dropout(x, self.dropout, self.training)
