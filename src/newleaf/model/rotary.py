"""Rotary positions: each pair of head dimensions is turned by an angle proportional to the position (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: Tensor, dim: int, base: float, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `positions` [...]: two fp32 tensors [..., dim]. Dimension i is paired with i + dim/2, or with its neighbour."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions.to(torch.float32).unsqueeze(-1) / base**exponents
    angles = angles.repeat_interleave(2, dim=-1) if interleaved else torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn the first dimensions of `x` [B, T, H, D] by tables that broadcast to them ([T, 1, dim] or [B, T, 1, dim])."""
    dim = cos.shape[-1]
    turned, rest = (x, None) if dim == x.shape[-1] else (x[..., :dim], x[..., dim:])
    if interleaved:
        quarter = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
    else:
        left, right = turned.chunk(2, dim=-1)
        quarter = torch.cat((-right, left), dim=-1)
    turned = turned * cos + quarter * sin
    return turned if rest is None else torch.cat((turned, rest), dim=-1)
