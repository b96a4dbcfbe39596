"""Log-probabilities of tokens under the network itself, before penalties, temperature and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenScore:
    """A token, its log-probability (natural; None for the first), and the likeliest ids with theirs."""

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def score(logits: Tensor, ids: Sequence[int], top: int, known: int) -> list[TokenScore]:
    """Scores of ids [R] under logits [R, V], each with the `top` likeliest of the first `known` ids.

    Ids beyond the tokenizer's keep their share of the probability, as in stock transformers.
    """
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids, dtype=torch.long)[:, None]).squeeze(1).tolist()
    best = logprobs[:, :known].topk(min(top, known, logits.shape[1]))
    pairs = [
        tuple(zip(row_ids, row, strict=True))
        for row_ids, row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [TokenScore(token, value, row) for token, value, row in zip(ids, own, pairs, strict=True)]
