"""A GPT with a linear head on its last token: labels in place of the next token (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from newleaf.model.block import Block
from newleaf.model.gpt import GPT
from newleaf.model.gpt_config import GPTConfig

HEAD_STD = 0.02


class Classifier(nn.Module):
    """`body` reads ids, padded on the right; `score`, without a bias, makes L logits of each last token.

    Since attention is causal, no token sees the padding after it. Section 3.2 of Radford et al. 2018.
    """

    def __init__(self, body: GPT, labels: int) -> None:
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.config.n_embd, labels, bias=False, device=body.device)
        nn.init.normal_(self.score.weight, std=HEAD_STD)

    def forward(self, ids: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        """Logits of sequences with `lengths` real tokens each."""
        return self.logits(self.body.hidden(ids), lengths)

    def logits(self, hidden: Float[Tensor, "B T C"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B L"]:
        """Logits from the body's hidden states."""
        last = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        logits: Tensor = self.score(last)
        return logits

    @property
    def config(self) -> GPTConfig:
        return self.body.config

    @property
    def layers(self) -> Iterator[Block]:
        return self.body.layers
