"""Next-token cross-entropy from hidden states, a few rows at a time, so that [B·T, V] in fp32 never
exists."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from newleaf.model.cpu import fused_layers

IGNORED = -100
CHUNK_ELEMENTS = 1 << 20  # logits held at once: about what stays in cache
FUSED = 4  # times as many where one loop does it all: then fewer sums of weight gradients count for more
CHUNK_ROWS = 256  # but no fewer rows than this, or the matrix products starve


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy in nats of `targets` [...] under softmax(hidden weightᵀ + bias); hidden [..., C], weight
    [V, C].

    Targets of -100 do not count. `reduction`: "mean" over those that count, "sum", or "none" (the shape of
    targets; no gradient).
    """
    flat, wanted = hidden.flatten(0, -2), targets.flatten()
    if reduction == "none":
        with torch.no_grad():
            rows = max(CHUNK_ROWS, CHUNK_ELEMENTS // weight.shape[0])
            losses = [
                F.cross_entropy(F.linear(h, weight, bias).float(), t, reduction="none")
                for h, t in zip(torch.split(flat, rows), torch.split(wanted, rows), strict=True)
            ]
        return torch.cat(losses).view(targets.shape)
    total: Tensor = _LinearCrossEntropy.apply(flat, weight, bias, wanted, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total / (wanted != IGNORED).sum().clamp(min=1) if reduction == "mean" else total


def _softmax_gradients(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses fp32 [N] and their gradients softmax − one-hot [N, V] in the logits' type; both zero where a
    target does not count."""
    gradient = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    counted, safe = targets != IGNORED, targets.clamp(min=0).unsqueeze(1)
    # log p of the target by way of the likeliest token, whose probability cannot underflow.
    log_top = gradient.amax(1, keepdim=True).log_()
    losses = logits.amax(1, keepdim=True).float() - logits.gather(1, safe).float() - log_top
    gradient.scatter_add_(1, safe, torch.full_like(log_top, -1))
    if not bool(counted.all()):
        gradient.mul_(counted.unsqueeze(1))
    return losses.squeeze(1).where(counted, 0), gradient.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the losses. Gradients are made on the way forward, while a chunk's probabilities are still at
    hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, with_gradients: bool
    ) -> Tensor:
        rows = max(
            CHUNK_ROWS, (FUSED if fused_layers.fits(hidden) else 1) * CHUNK_ELEMENTS // weight.shape[0]
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needed = with_gradients and any(ctx.needs_input_grad[:3])
        hidden_grad = torch.empty_like(hidden) if needed else None
        trained = needed and ctx.needs_input_grad[1]
        weight_grad = (
            torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if trained else None
        )
        bias_grad = (
            torch.zeros(bias.shape, dtype=torch.float32, device=bias.device)
            if needed and bias is not None
            else None
        )
        for start in range(0, hidden.shape[0], rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = F.linear(h, weight, bias)
            losses, gradient = (
                fused_layers.softmax_gradients(logits, t)
                if fused_layers.fits(hidden)
                else _softmax_gradients(logits, t)
            )
            total += losses.sum()
            if hidden_grad is None:
                continue
            if bias_grad is not None:
                bias_grad += gradient.sum(0, dtype=torch.float32)
            torch.mm(gradient, weight, out=hidden_grad[start : start + rows])
            if weight_grad is not None:
                weight_grad += gradient.T @ h
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtype = hidden.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (grad,) = grads
        hidden_grad, weight_grad, bias_grad = (
            (g * grad).to(ctx.dtype) if g is not None else None for g in ctx.saved_tensors
        )
        return hidden_grad, weight_grad, bias_grad, None, None
