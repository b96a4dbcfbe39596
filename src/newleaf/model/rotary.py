"""Rotary positions: pairs of head dimensions turn in proportion to the position (Su et al. 2021)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from newleaf.model.gpt_config import GPTConfig


def rotary_table(
    positions: Int[Tensor, "*batch"], config: GPTConfig
) -> tuple[Float[Tensor, "*batch R"], Float[Tensor, "*batch R"]]:
    """Cosines and sines of `positions` in fp32, R = rotary_dim.

    Dimension i is paired with i + R/2, or with its neighbour where the configuration says interleaved.
    """
    index = torch.arange(0, config.rotary_dim, 2, device=positions.device, dtype=torch.float32)
    rates, scale = 1.0 / config.rotary_base ** (index / config.rotary_dim), 1.0
    if config.yarn_factor:
        rates = _yarn_rates(rates, config)
        scale = 0.1 * math.log(config.yarn_factor) + 1.0 if config.yarn_factor > 1 else 1.0
    angles = positions.to(torch.float32).unsqueeze(-1) * rates
    if config.rotary_interleaved:
        angles = angles.repeat_interleave(2, dim=-1)
    else:
        angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * scale, angles.sin() * scale


def _yarn_rates(rates: Float[Tensor, " R/2"], config: GPTConfig) -> Float[Tensor, " R/2"]:
    """YaRN's rates (Peng et al. 2023, section 3.2).

    Dimensions that turn often within the trained context keep their rate. Those that turn less than once are
    slowed down by the factor, and those between are interpolated.
    """

    def dimension_of(turns: float) -> float:
        """The dimension, as a fraction, that makes so many turns in the trained context."""
        wavelength = config.yarn_context / (turns * 2 * math.pi)
        return config.rotary_dim * math.log(wavelength) / (2 * math.log(config.rotary_base))

    low, high = dimension_of(config.yarn_beta_fast), dimension_of(config.yarn_beta_slow)
    if config.yarn_truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    index = torch.arange(rates.shape[0], dtype=torch.float32, device=rates.device)
    slowed = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return rates / config.yarn_factor * slowed + rates * (1 - slowed)


def rotate(
    x: Float[Tensor, "B T H D"],
    cos: Float[Tensor, "*batch T 1 R"],
    sin: Float[Tensor, "*batch T 1 R"],
    interleaved: bool = False,
) -> Float[Tensor, "B T H D"]:
    """Turn each head's first R dimensions: (a, b) → (a cos − b sin, b cos + a sin)."""
    dim = cos.shape[-1]
    rotated, rest = (x, None) if dim == x.shape[-1] else (x[..., :dim], x[..., dim:])
    if interleaved:
        quarter_turn = torch.stack((-rotated[..., 1::2], rotated[..., 0::2]), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        quarter_turn = torch.cat((-second, first), dim=-1)
    rotated = rotated * cos + quarter_turn * sin
    return rotated if rest is None else torch.cat((rotated, rest), dim=-1)
