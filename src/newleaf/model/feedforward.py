"""The feed-forward layer: up, activation (gated or not), down."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.model.cpu import fused_layers
from newleaf.model.cpu.fused_projections import fused_projection, joinable
from newleaf.model.gpt_config import ActivationKind, GPTConfig

ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def gate_with(config: GPTConfig, gate: Tensor, up: Tensor) -> Tensor:
    """activation(gate) * up; gpt-oss's form clamps both and adds one to up
    (https://arxiv.org/abs/2508.10925)."""
    if config.activation == "clamped_swiglu":
        gate, up = gate.clamp(max=config.swiglu_limit), up.clamp(-config.swiglu_limit, config.swiglu_limit)
        return gate * torch.sigmoid(config.swiglu_alpha * gate) * (up + 1)
    return ACTIVATIONS[config.activation](gate) * up


class FeedForward(nn.Module):
    """x [B, T, C] → [B, T, C] through F hidden units; with `gated`, down(activation(gate x) * up x) (Shazeer
    2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate = (
            nn.Linear(config.n_embd, config.n_inner, bias=config.feedforward_bias) if config.gated else None
        )
        self.up = nn.Linear(config.n_embd, config.n_inner, bias=config.feedforward_bias)
        self.down = nn.Linear(config.n_inner, config.n_embd, bias=config.feedforward_bias)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        if fused_layers.fits(x) and self._is_plain():
            hidden = (
                fused_layers.swiglu(fused_projection(x, (self.gate, self.up)))
                if self.gate is not None
                else fused_layers.gelu_tanh(self.up(x))
            )
        elif self.gate is not None:
            hidden = gate_with(self.config, self.gate(x), self.up(x))
        else:
            hidden = ACTIVATIONS[self.config.activation](self.up(x))
        out: Tensor = self.down(hidden)
        return out

    def _is_plain(self) -> bool:
        """Whether this is one of the two forms that `fused` does in one step."""
        activation, whole = self.config.activation, self.config.n_inner % 16 == 0
        if self.gate is not None:
            return activation == "silu" and whole and joinable(self.gate, self.up)
        return activation == "gelu_tanh" and whole
