"""Log-probabilities of given tokens, and distances between distributions, without ever holding the logits of
all positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 1 << 22  # logits held at once
MIN_ROWS = 64

Head = Callable[[Tensor], Tensor]  # hidden [N, C] → logits [N, V]


def map_rows(work: Callable[..., Tensor], vocabulary: int, *rows: Tensor) -> Tensor:
    """`work` on the same rows of several tensors [N, …] → [N], a part at a time; parts are computed again on
    the way back."""
    size = max(MIN_ROWS, MAX_LOGITS // vocabulary)
    parts = list(zip(*(torch.split(tensor, size) for tensor in rows), strict=True))
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(work, *part, use_reentrant=False) for part in parts])
    return torch.cat([work(*part) for part in parts])


def target_log_probs(head: Head, vocabulary: int, hidden: Tensor, targets: Tensor) -> Tensor:
    """log p of `targets` [N] after `hidden` [N, C], fp32 [N], with gradients for hidden and the head's
    weights."""

    def of_part(h: Tensor, t: Tensor) -> Tensor:
        return -F.cross_entropy(head(h).float(), t, reduction="none")

    return map_rows(of_part, vocabulary, hidden, targets)


def sums_by_sequence(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """Sums [count] of `values` [N] over the positions of each owner, whose numbers are `owners` [N]."""
    return values.new_zeros(count).index_add(0, owners, values)


def kl_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) in nats, fp32 [N], of the distributions softmax(logits / temperature), from
    logits [N, V]."""
    wanted = (teacher.float() / temperature).log_softmax(-1)
    found = (student.float() / temperature).log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1)


def top_k_kl_divergence(log_probs: Tensor, tokens: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL as `kl_divergence`, from the teacher's likeliest k alone: their log-probabilities [N, k] at this
    temperature and their ids [N, k].

    What all other tokens have together counts as one outcome, so that it is a lower bound of the whole KL,
    and 0 only where the student gives each of the k what the teacher does.
    """
    found = (student.float() / temperature).log_softmax(-1).gather(-1, tokens)
    known = (log_probs.exp() * (log_probs - found)).sum(-1)
    rest, left = _log_of_rest(log_probs), _log_of_rest(found)
    return known + rest.exp() * (rest - left)


def _log_of_rest(log_probs: Tensor) -> Tensor:
    """log(1 − Σp) of the last dimension."""
    return torch.log1p(-log_probs.exp().sum(-1).clamp(max=1 - 1e-6))
