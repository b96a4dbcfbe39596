"""A GPT with a linear head on its last token: labels in place of the next token (Radford et al. 2018, section
3.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from newleaf.model.block import Block
from newleaf.model.gpt import GPT
from newleaf.model.gpt_config import GPTConfig

HEAD_STD = 0.02


class Classifier(nn.Module):
    """`body` reads ids [S, T], padded on the right; `score`, without a bias, makes L logits of what comes of
    each sequence's last token.

    Since attention looks to the left only, no token sees the padding behind it.
    """

    def __init__(self, body: GPT, labels: int) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.config.n_embd, labels, bias=False, device=body.device)
        nn.init.normal_(self.score.weight, std=HEAD_STD)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits [S, L] of sequences ids [S, T] with so many real tokens each, [S]."""
        return self.logits(self.body.hidden(ids), lengths)

    def logits(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Logits [S, L] from what the body made, [S, T, C]."""
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        found: Tensor = self.score(last)
        return found

    @property
    def config(self) -> GPTConfig:
        return self.body.config

    @property
    def layers(self) -> Iterator[Block]:
        return self.body.layers
