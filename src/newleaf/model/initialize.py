"""The initial weights of a network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from newleaf.model.block import Block
from newleaf.model.gpt_config import GPTConfig
from newleaf.model.mixture import Mixture


def initialize(network: nn.Module, config: GPTConfig, layers: Iterable[Block]) -> None:
    """Draw every weight of a new network from torch's generator; biases start at zero, norms at one.

    `config.init` says how. `normal`: N(0, init_std) (GPT-1, Radford et al. 2018). `normal_residual_scaled`:
    the two projections of a layer that write to the residual stream are divided by sqrt(2 · n_layer) (GPT-2,
    Radford et al. 2019; its code's successors count both projections). `fan_in`: inside the blocks
    N(0, 1/fan_in), which preserves the variance of activations, and zeros where a block writes to the
    residual stream, so that it starts as the identity.
    """
    if next(network.parameters()).is_meta:
        return  # nothing to draw
    for module in network.modules():
        for weight in _matrices(module):
            nn.init.normal_(weight, 0.0, config.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in layers:
        if config.init == "fan_in":
            for module in block.modules():
                for weight in _matrices(module):
                    nn.init.normal_(weight, 0.0, weight.shape[-1] ** -0.5)
        for weight in _residual_projections(block):
            if config.init == "normal_residual_scaled":
                nn.init.normal_(weight, 0.0, config.init_std / math.sqrt(2 * config.n_layer))
            elif config.init == "fan_in":
                nn.init.zeros_(weight)


def _matrices(module: nn.Module) -> Iterator[Tensor]:
    """The module's own matrices, [..., out, in]."""
    if isinstance(module, nn.Linear | nn.Embedding):
        yield module.weight
    elif isinstance(module, Mixture):
        yield from (module.gate, module.up, module.down)


def _residual_projections(block: Block) -> tuple[Tensor, Tensor]:
    """The matrices through which a block adds to the residual stream."""
    down = block.feedforward.down
    return block.attention.out.weight, down.weight if isinstance(down, nn.Linear) else down
