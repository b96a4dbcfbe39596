"""Rotary positions: each pair of head dimensions is turned by an angle proportional to the position (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines for `positions` [...]: two fp32 tensors [..., D], dimension i paired with i + D/2."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.to(torch.float32).unsqueeze(-1) / base**exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `x` [B, T, H, D] by tables that broadcast to it ([T, 1, D] or [B, T, 1, D])."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
