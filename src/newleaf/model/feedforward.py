"""The feed-forward layer: up, activation (gated or not), down."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.cpu import fused_layers
from newleaf.model.cpu.fused_projections import are_fusable, fused_projection
from newleaf.model.gpt_config import ActivationKind, GPTConfig

ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def gated_activation(
    config: GPTConfig, gate: Float[Tensor, "*batch F"], up: Float[Tensor, "*batch F"]
) -> Float[Tensor, "*batch F"]:
    """activation(gate) · up; gpt-oss's form clamps both and adds one to up (arXiv:2508.10925)."""
    if config.activation == "clamped_swiglu":
        gate, up = gate.clamp(max=config.swiglu_limit), up.clamp(-config.swiglu_limit, config.swiglu_limit)
        return gate * torch.sigmoid(config.swiglu_alpha * gate) * (up + 1)
    return ACTIVATIONS[config.activation](gate) * up


class FeedForward(nn.Module):
    """down(activation(up x)); gated, down(activation(gate x) · up x) (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width, inner, bias = config.n_embd, config.n_inner, config.feedforward_bias
        self.gate = nn.Linear(width, inner, bias=bias) if config.gated else None
        self.up = nn.Linear(width, inner, bias=bias)
        self.down = nn.Linear(inner, width, bias=bias)
        self.config = config

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        if fused_layers.fits(x) and self._can_fuse():
            if self.gate is not None:
                hidden = fused_layers.swiglu(fused_projection(x, (self.gate, self.up)))
            else:
                hidden = fused_layers.gelu_tanh(self.up(x))
        elif self.gate is not None:
            hidden = gated_activation(self.config, self.gate(x), self.up(x))
        else:
            hidden = ACTIVATIONS[self.config.activation](self.up(x))
        y: Tensor = self.down(hidden)
        return y

    def _can_fuse(self) -> bool:
        """Whether the activation is one that `fused_layers` has, over full vector registers."""
        activation, fits_registers = self.config.activation, self.config.n_inner % 16 == 0
        if self.gate is not None:
            return activation == "silu" and fits_registers and are_fusable(self.gate, self.up)
        return activation == "gelu_tanh" and fits_registers
