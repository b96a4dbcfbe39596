"""The losses that learn from a preference, as formulas of log-probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(margin: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """−log σ(β·margin), where the margin is how much more the policy prefers chosen to rejected than the
    reference does, in nats [N].

    Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, equation 7; `smoothing` is the share of pairs
    believed to be the wrong way round (conservative DPO).
    """
    return -(1 - smoothing) * F.logsigmoid(beta * margin) - smoothing * F.logsigmoid(-beta * margin)


def ipo(margin: Tensor, beta: float) -> Tensor:
    """(margin − 1/(2β))², with log-probabilities that are means over an answer's tokens.

    Azar et al. 2023, https://arxiv.org/abs/2310.12036, equation 17, whose τ is β; means instead of sums as in
    the authors' later advice.
    """
    return (margin - 1 / (2 * beta)).square()


def orpo(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """−β·log σ(log odds of chosen − log odds of rejected), from mean log-probabilities of a token [N], which
    are below 0.

    The odds-ratio part of Hong et al. 2024, https://arxiv.org/abs/2403.07691, equation 7; the chosen answers'
    own loss is added to it.
    """
    odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -beta * F.logsigmoid(odds)


def _log_of_rest(log_prob: Tensor) -> Tensor:
    """log(1 − p), exactly also where p is near 1."""
    return torch.log(-torch.expm1(log_prob.clamp(max=-1e-7)))
