"""The losses of preference learning, as formulas of log-probabilities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def dpo(margin: Float[Tensor, " N"], beta: float, smoothing: float = 0.0) -> Float[Tensor, " N"]:
    """−log σ(β·margin): direct preference optimization.

    The margin, in nats, is how much more than the reference the policy prefers the chosen answer. `smoothing`
    is the share of pairs assumed to be labelled the wrong way round (conservative DPO). Rafailov et al. 2023,
    https://arxiv.org/abs/2305.18290, equation 7.
    """
    return -(1 - smoothing) * F.logsigmoid(beta * margin) - smoothing * F.logsigmoid(-beta * margin)


def ipo(margin: Float[Tensor, " N"], beta: float) -> Float[Tensor, " N"]:
    """(margin − 1/(2β))²: identity preference optimization, of mean log-probabilities per token.

    Azar et al. 2023, https://arxiv.org/abs/2310.12036, equation 17, whose τ is β. Means in place of sums are
    the authors' later advice.
    """
    return (margin - 1 / (2 * beta)).square()


def orpo(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], beta: float) -> Float[Tensor, " N"]:
    """−β·log σ(log odds of chosen − log odds of rejected), from mean log-probabilities of a token, below 0.

    The odds-ratio term of Hong et al. 2024, https://arxiv.org/abs/2403.07691, equation 7. The chosen answers'
    own loss is added to it elsewhere.
    """
    log_odds_ratio = (chosen - rejected) - (_log_complement(chosen) - _log_complement(rejected))
    return -beta * F.logsigmoid(log_odds_ratio)


def _log_complement(log_prob: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log(1 − p), accurate where p is near 1 too."""
    return torch.log(-torch.expm1(log_prob.clamp(max=-1e-7)))
