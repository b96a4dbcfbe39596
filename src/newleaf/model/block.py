"""One layer: attention and feed-forward, each normalised and added to the residual stream."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.attention import Attention
from newleaf.model.context import Context
from newleaf.model.feedforward import FeedForward
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.mixture import Mixture
from newleaf.model.norm import build_norm


class Block(nn.Module):
    """x [B, T, C] → [B, T, C].

    pre_norm (GPT-2 and after)                       post_norm (GPT-1)

        x ──┬─► norm ─► attention ────► + ──►            x ──┬─► attention ────► + ─► norm ──►
            └───────────────────────────┘                    └───────────────────┘
        x ──┬─► norm ─► feed-forward ─► + ──►            x ──┬─► feed-forward ─► + ─► norm ──►
            └───────────────────────────┘                    └───────────────────┘

    parallel (GPT-J with one norm for both, GPT-NeoX with two)

        x ──┬─► norm ─► attention ────► + ──►
            ├─► norm ─► feed-forward ─► +
            └───────────────────────────┘
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.kind = config.block
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, layer)
        self.feedforward_norm = None if config.shared_norm else build_norm(config)
        self.feedforward = Mixture(config) if config.n_expert else FeedForward(config)
        self.dropout = config.residual_dropout

    def forward(self, x: Float[Tensor, "B T C"], context: Context) -> Float[Tensor, "B T C"]:
        if self.kind == "parallel":
            normed = self.attention_norm(x)
            also_normed = normed if self.feedforward_norm is None else self.feedforward_norm(x)
            return x + self._drop(self.attention(normed, context)) + self._drop(self.feedforward(also_normed))

        assert self.feedforward_norm is not None  # only parallel blocks share a norm
        if self.kind == "post_norm":
            x = self.attention_norm(x + self._drop(self.attention(x, context)))
            y: Tensor = self.feedforward_norm(x + self._drop(self.feedforward(x)))
            return y

        x = x + self._drop(self.attention(self.attention_norm(x), context))
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
