"""A mixture of experts: many feed-forward layers, of which a router chooses a few for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.feedforward import gated_activation
from newleaf.model.gpt_config import GPTConfig


class Mixture(nn.Module):
    """The sum of the `n_expert_active` experts with the highest scores, weighted by the softmax of these."""

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

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        tokens = x.flatten(0, -2)
        scores, chosen = self.router(tokens).topk(self.config.n_expert_active, dim=-1)  # [N, active] each
        weights = scores.softmax(-1)
        out = torch.zeros_like(tokens)
        for expert in chosen.unique().tolist():
            rows, ranks = (chosen == expert).nonzero(as_tuple=True)
            weighted = self._expert(expert, tokens[rows]) * weights[rows, ranks].unsqueeze(1)
            out = out.index_add(0, rows, weighted)
        return out.view_as(x)

    def _expert(self, number: int, x: Float[Tensor, "n C"]) -> Float[Tensor, "n C"]:
        """One expert on the tokens that were routed to it."""

        def bias(of_all: Tensor | None) -> Tensor | None:
            return of_all[number] if of_all is not None else None

        gate = F.linear(x, self.gate[number], bias(self.gate_bias))
        up = F.linear(x, self.up[number], bias(self.up_bias))
        return F.linear(gated_activation(self.config, gate, up), self.down[number], bias(self.down_bias))
