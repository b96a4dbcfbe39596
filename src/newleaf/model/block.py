"""One layer: attention and feed-forward, each added to the residual stream, normed before (GPT-2) or after (GPT-1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.model.attention import Attention, Context
from newleaf.model.config import GPTConfig
from newleaf.model.feedforward import FeedForward
from newleaf.model.norm import build_norm


class Block(nn.Module):
    """x [B, T, C] → [B, T, C].

    pre_norm (GPT-2 and after)                     post_norm (GPT-1)

        x ──┬─► norm ─► attention ─► +                 x ──┬─► attention ─► + ─► norm
            └────────────────────────┘                     └────────────────┘
        x ──┬─► norm ─► feed-forward ─► +              x ──┬─► feed-forward ─► + ─► norm
            └───────────────────────────┘                  └───────────────────┘
    """

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.kind = config.block
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, layer)
        self.feedforward_norm = build_norm(config)
        self.feedforward = FeedForward(config)
        self.dropout = config.residual_dropout

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.kind == "post_norm":
            x = self.attention_norm(x + self._drop(self.attention(x, context)))
            out: Tensor = self.feedforward_norm(x + self._drop(self.feedforward(x)))
            return out
        x = x + self._drop(self.attention(self.attention_norm(x), context))
        return x + self._drop(self.feedforward(self.feedforward_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
