"""Layer norm and RMS norm, the latter with its own backward: PyTorch's takes ten times as long on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from newleaf.model.cpu import fused_layers
from newleaf.model.gpt_config import GPTConfig


class _RMSNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x²) + eps) · w over the last dimension; the mean is taken in fp32 at least."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        sum_dtype = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=sum_dtype)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        unit = x * scale
        ctx.save_for_backward(unit, weight, scale)
        out: Tensor = unit * weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        unit, weight, scale = ctx.saved_tensors
        overlap = grad * unit
        rows = overlap.flatten(0, -2)
        weight_grad = torch.mv(rows.T, torch.ones(rows.shape[0], dtype=rows.dtype, device=rows.device))
        # The output does not depend on x's length: the gradient along x is removed.
        along = (overlap @ weight).div_(unit.shape[-1]).unsqueeze(-1)
        return torch.addcmul(grad * weight, unit, along, value=-1).mul_(scale), weight_grad, None


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        if fused_layers.fits(x):
            return fused_layers.rms_norm(x, self.weight, self.eps)
        if x.device.type == "cpu":
            return _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-any-return, no-untyped-call]
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def build_norm(config: GPTConfig) -> nn.Module:
    """The norm over C that the configuration has."""
    if config.norm == "rms_norm":
        return RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd, config.norm_eps)
