"""Log-probabilities of tokens and KL divergences, without holding the logits of all positions at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAX_LOGITS = 1 << 22  # logits held at once
MIN_ROWS = 64

Head = Callable[[Tensor], Tensor]  # hidden [N, C] → logits [N, V]


def map_rows(function: Callable[..., Tensor], vocabulary: int, *tensors: Tensor) -> Tensor:
    """The function of the same rows of several tensors, in chunks; the backward pass recomputes each."""
    size = max(MIN_ROWS, MAX_LOGITS // vocabulary)
    chunks = list(zip(*(torch.split(tensor, size) for tensor in tensors), strict=True))
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks])
    return torch.cat([function(*chunk) for chunk in chunks])


def target_log_probs(
    head: Head, vocabulary: int, hidden: Float[Tensor, "N C"], targets: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """log p of the targets in fp32, with gradients for the hidden states and the head's weights."""

    def of_chunk(h: Tensor, t: Tensor) -> Tensor:
        return -F.cross_entropy(head(h).float(), t, reduction="none")

    return map_rows(of_chunk, vocabulary, hidden, targets)


def sums_by_sequence(
    values: Float[Tensor, " N"], sequences: Int[Tensor, " N"], count: int
) -> Float[Tensor, " count"]:
    """Sums of the values over the positions of each sequence, whose number `sequences` gives."""
    return values.new_zeros(count).index_add(0, sequences, values)


def kl_divergence(
    teacher: Float[Tensor, "N V"], student: Float[Tensor, "N V"], temperature: float
) -> Float[Tensor, " N"]:
    """KL(teacher ‖ student) in nats, in fp32, of softmax(logits / temperature)."""
    teacher_log_probs = (teacher.float() / temperature).log_softmax(-1)
    student_log_probs = (student.float() / temperature).log_softmax(-1)
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)


def top_k_kl_divergence(
    log_probs: Float[Tensor, "N k"],
    tokens: Int[Tensor, "N k"],
    student: Float[Tensor, "N V"],
    temperature: float,
) -> Float[Tensor, " N"]:
    """KL as `kl_divergence`, from the log-probabilities of the teacher's k likeliest tokens alone.

    All other tokens together count as one outcome. So this is a lower bound of the full KL, and 0 only where
    the student gives each of the k the teacher's probability. `log_probs` are at this temperature.
    """
    student_log_probs = (student.float() / temperature).log_softmax(-1).gather(-1, tokens)
    of_top_k = (log_probs.exp() * (log_probs - student_log_probs)).sum(-1)
    rest, student_rest = _log_complement(log_probs), _log_complement(student_log_probs)
    return of_top_k + rest.exp() * (rest - student_rest)


def _log_complement(log_probs: Float[Tensor, "N k"]) -> Float[Tensor, " N"]:
    """log(1 − Σp) over the last dimension."""
    return torch.log1p(-log_probs.exp().sum(-1).clamp(max=1 - 1e-6))
