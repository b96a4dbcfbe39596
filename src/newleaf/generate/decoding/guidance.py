"""Classifier-free guidance: moves logits away from those after a negative prompt (Sanchez et al. 2023)."""

from __future__ import annotations

from torch import Tensor


def apply_guidance(logits: Tensor, negative: Tensor, scale: float) -> Tensor:
    """log p⁻ + scale · (log p − log p⁻) for logits [R, V] after the prompts and after the negative ones."""
    positive, unwanted = logits.log_softmax(-1), negative.log_softmax(-1)
    return unwanted + scale * (positive - unwanted)
