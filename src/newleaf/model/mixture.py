"""A mixture of experts: many feed-forward layers, of which a router picks a few for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.model.feedforward import gate_with
from newleaf.model.gpt_config import GPTConfig


class Mixture(nn.Module):
    """x [B, T, C] → [B, T, C]: the `n_expert_active` likeliest experts of each token, weighed by the softmax
    over their scores."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        experts, width, inner = config.n_expert, config.n_embd, config.n_inner
        self.config = config
        self.router = nn.Linear(width, experts, bias=config.feedforward_bias)
        self.gate = nn.Parameter(torch.zeros(experts, inner, width))
        self.up = nn.Parameter(torch.zeros(experts, inner, width))
        self.down = nn.Parameter(torch.zeros(experts, width, inner))
        biased = config.feedforward_bias
        self.gate_bias = nn.Parameter(torch.zeros(experts, inner)) if biased else None
        self.up_bias = nn.Parameter(torch.zeros(experts, inner)) if biased else None
        self.down_bias = nn.Parameter(torch.zeros(experts, width)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        scores, chosen = self.router(tokens).topk(self.config.n_expert_active, dim=-1)  # [N, active] each
        shares = scores.softmax(-1)
        out = torch.zeros_like(tokens)
        for expert in chosen.unique().tolist():
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            out = out.index_add(
                0, rows, self._expert(expert, tokens[rows]) * shares[rows, places].unsqueeze(1)
            )
        return out.view_as(x)

    def _expert(self, number: int, x: Tensor) -> Tensor:
        """One expert on the tokens [n, C] that were sent to it."""

        def bias(of_all: Tensor | None) -> Tensor | None:
            return of_all[number] if of_all is not None else None

        gate = F.linear(x, self.gate[number], bias(self.gate_bias))
        up = F.linear(x, self.up[number], bias(self.up_bias))
        return F.linear(gate_with(self.config, gate, up), self.down[number], bias(self.down_bias))
