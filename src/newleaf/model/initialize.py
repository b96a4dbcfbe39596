"""How weights start."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from newleaf.model.gpt import GPT


def initialize(network: GPT) -> None:
    """Draw every weight of a new network from torch's generator, as `config.init` says; biases start at zero, norms at one.

    `normal`: N(0, init_std), GPT-1 (Radford et al. 2018). `normal_residual_scaled`: the two projections of a layer that write to the
    residual stream divided by sqrt(2 · n_layer), GPT-2 (Radford et al. 2019; its code's successors count both projections).
    `fan_in`: see `_fan_in`.
    """
    config = network.config
    if network.head.weight.is_meta:
        return  # a shape without memory has nothing to draw
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, config.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if config.init == "normal_residual_scaled":
        for block in network.layers:
            for project in (block.attention.out, block.feedforward.down):
                nn.init.normal_(project.weight, 0.0, config.init_std / math.sqrt(2 * config.n_layer))
    elif config.init == "fan_in":
        _fan_in(network)


def _fan_in(network: GPT) -> None:
    """Layers that keep the size of what they read (N(0, 1/fan_in)) and at first add nothing: a block starts as the identity."""
    for block in network.layers:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, module.in_features**-0.5)
        nn.init.zeros_(block.attention.out.weight)
        nn.init.zeros_(block.feedforward.down.weight)
