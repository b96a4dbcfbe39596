"""Rotary positions: each pair of head dimensions is turned by an angle proportional to the position (Su et
al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from newleaf.model.gpt_config import GPTConfig


def rotary_table(positions: Tensor, config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `positions` [...]: two fp32 tensors [..., rotary_dim].

    Dimension i is paired with i + rotary_dim/2, or with its neighbour where the configuration says
    interleaved.
    """
    exponents = (
        torch.arange(0, config.rotary_dim, 2, device=positions.device, dtype=torch.float32)
        / config.rotary_dim
    )
    rates, scale = 1.0 / config.rotary_base**exponents, 1.0
    if config.yarn_factor:
        rates, scale = (
            _yarn(rates, config),
            0.1 * math.log(config.yarn_factor) + 1.0 if config.yarn_factor > 1 else 1.0,
        )
    angles = positions.to(torch.float32).unsqueeze(-1) * rates
    angles = (
        angles.repeat_interleave(2, dim=-1)
        if config.rotary_interleaved
        else torch.cat((angles, angles), dim=-1)
    )
    return angles.cos() * scale, angles.sin() * scale


def _yarn(rates: Tensor, config: GPTConfig) -> Tensor:
    """YaRN's rates: dimensions that turn often within the trained context stay, those that turn less than
    once slow down by the factor, those between are blended (Peng et al. 2023, section 3.2)."""

    def dimension_that_turns(times: float) -> float:
        wavelength = config.yarn_context / (times * 2 * math.pi)
        return config.rotary_dim * math.log(wavelength) / (2 * math.log(config.rotary_base))

    low, high = dimension_that_turns(config.yarn_beta_fast), dimension_that_turns(config.yarn_beta_slow)
    if config.yarn_truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.rotary_dim - 1)
    index = torch.arange(rates.shape[0], dtype=torch.float32, device=rates.device)
    slowed = ((index - low) / max(high - low, 0.001)).clamp(0, 1)
    return rates / config.yarn_factor * slowed + rates * (1 - slowed)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn the first dimensions of `x` [B, T, H, D] by tables that broadcast to them ([T, 1, dim] or [B, T,
    1, dim])."""
    dim = cos.shape[-1]
    turned, rest = (x, None) if dim == x.shape[-1] else (x[..., :dim], x[..., dim:])
    if interleaved:
        quarter = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
    else:
        left, right = turned.chunk(2, dim=-1)
        quarter = torch.cat((-right, left), dim=-1)
    turned = turned * cos + quarter * sin
    return turned if rest is None else torch.cat((turned, rest), dim=-1)
