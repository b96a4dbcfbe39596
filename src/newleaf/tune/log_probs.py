"""Log-probabilities of given tokens, and distances between distributions, without ever holding the logits of all positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ELEMENTS = 1 << 22  # logits held at once


def by_rows(work: Callable[..., Tensor], vocabulary: int, *rows: Tensor) -> Tensor:
    """`work` on the same rows of several tensors [N, …] → [N], a part at a time; parts are computed again on the way back."""
    size = max(64, ELEMENTS // vocabulary)
    parts = zip(*(torch.split(tensor, size) for tensor in rows), strict=True)
    if torch.is_grad_enabled():
        found = [checkpoint(work, *part, use_reentrant=False) for part in parts]
    else:
        found = [work(*part) for part in parts]
    return torch.cat(found) if found else rows[0].new_zeros(0, dtype=torch.float32)


def target_log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """log p of `targets` [N] after `hidden` [N, C], fp32 [N], with gradients for hidden, weight [V, C] and bias [V]."""

    def of_part(h: Tensor, t: Tensor) -> Tensor:
        return -F.cross_entropy(F.linear(h, weight, bias).float(), t, reduction="none")

    return by_rows(of_part, weight.shape[0], hidden, targets)


def sums_by_document(log_probs: Tensor, documents: Tensor, count: int) -> Tensor:
    """Sums [count] of log_probs [N] over the positions of each document, whose numbers are documents [N]."""
    return log_probs.new_zeros(count).index_add(0, documents, log_probs)


def divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) in nats, fp32 [N], of distributions softmax(logits / temperature) from logits [N, V].

    See Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    """
    wanted = (teacher.float() / temperature).log_softmax(-1)
    found = (student.float() / temperature).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1)
