"""Next-token cross-entropy from hidden states, in chunks of rows: logits [B·T, V] never exist in fp32."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from newleaf.model.cpu import fused_layers

IGNORED = -100
CHUNK_ELEMENTS = 1 << 20  # logits held at once: about what stays in cache
FUSED_CHUNKS = 4  # times as many in the fused loss, where the fewer sums of weight gradients save more
MIN_CHUNK_ROWS = 256  # with fewer, the matrix products are slow


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, "*batch"],
    reduction: str = "mean",
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """Cross-entropy in nats of `targets` under softmax(hidden weightᵀ + bias).

    Targets of -100 do not count. `reduction`: "mean" over those that count, "sum", or "none" (the shape of
    targets; no gradient).
    """
    flat, flat_targets = hidden.flatten(0, -2), targets.flatten()
    if reduction == "none":
        with torch.no_grad():
            rows = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS // weight.shape[0])
            chunks = zip(torch.split(flat, rows), torch.split(flat_targets, rows), strict=True)
            losses = [
                F.cross_entropy(F.linear(h, weight, bias).float(), t, reduction="none") for h, t in chunks
            ]
        return torch.cat(losses).view(targets.shape)
    total: Tensor = _LinearCrossEntropy.apply(flat, weight, bias, flat_targets, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total / (flat_targets != IGNORED).sum().clamp(min=1) if reduction == "mean" else total


def _softmax_gradients(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"]]:
    """Losses, and their gradients softmax − one-hot in the logits' type; zero for ignored targets."""
    gradient = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    counted, safe = targets != IGNORED, targets.clamp(min=0).unsqueeze(1)
    # log p of the target from that of the likeliest token, whose probability cannot underflow.
    log_top = gradient.amax(1, keepdim=True).log_()
    losses = logits.amax(1, keepdim=True).float() - logits.gather(1, safe).float() - log_top
    gradient.scatter_add_(1, safe, torch.full_like(log_top, -1))
    if not bool(counted.all()):
        gradient.mul_(counted.unsqueeze(1))
    return losses.squeeze(1).where(counted, 0), gradient.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of the losses. Gradients are computed in the forward pass, where a chunk's probabilities are."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, with_gradients: bool
    ) -> Tensor:
        is_fused = fused_layers.fits(hidden)
        rows = max(MIN_CHUNK_ROWS, (FUSED_CHUNKS if is_fused else 1) * CHUNK_ELEMENTS // weight.shape[0])
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        needed = with_gradients and any(ctx.needs_input_grad[:3])
        hidden_grad = torch.empty_like(hidden) if needed else None
        weight_grad = _fp32_zeros(weight) if needed and ctx.needs_input_grad[1] else None
        bias_grad = _fp32_zeros(bias) if needed and bias is not None else None
        softmax_gradients = fused_layers.softmax_gradients if is_fused else _softmax_gradients
        for start in range(0, hidden.shape[0], rows):
            h, t = hidden[start : start + rows], targets[start : start + rows]
            logits = F.linear(h, weight, bias)
            losses, gradient = softmax_gradients(logits, t)
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


def _fp32_zeros(like: Tensor) -> Tensor:
    return torch.zeros(like.shape, dtype=torch.float32, device=like.device)
