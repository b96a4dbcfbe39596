"""How likely each token was: log-probabilities of the network itself, before any penalty, temperature or truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newleaf.errors import NotFiniteError
from newleaf.generate.runner import evaluating
from newleaf.model import GPT

CHUNK = 256  # positions whose logits are held at once


@dataclass(frozen=True)
class TokenScore:
    """A token, the natural logarithm of its probability (None: nothing came before it), and the likeliest ids with theirs."""

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def score(logits: Tensor, ids: Sequence[int], top: int, known: int) -> list[TokenScore]:
    """Scores of ids [R] under logits [R, V], each with the `top` likeliest of the first `known` ids, likeliest first. Rows of a network's
    head beyond the tokenizer's ids have their share of the probability, as everywhere in stock transformers."""
    logprobs = logits.float().log_softmax(-1)
    own = logprobs.gather(1, torch.tensor(ids, dtype=torch.long)[:, None]).squeeze(1).tolist()
    best = logprobs[:, :known].topk(min(top, known, logits.shape[1]))
    pairs = [tuple(zip(row_ids, row, strict=True)) for row_ids, row in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    return [TokenScore(token, value, row) for token, value, row in zip(ids, own, pairs, strict=True)]


@torch.no_grad()
def score_prompt(network: GPT, ids: Sequence[int], known: int, top: int) -> list[TokenScore]:
    """Scores of a prompt's tokens, read at once; `known` is the tokenizer's size. The first has none, since nothing comes before it.

    Raises NotFiniteError where the network overflows.
    """
    scores = [TokenScore(ids[0], None)]
    if len(ids) > 1:
        with evaluating(network):
            hidden = network.hidden(torch.tensor([list(ids[:-1])], device=network.device))[0]
        for start in range(0, len(hidden), CHUNK):
            logits = network.head(hidden[start : start + CHUNK]).float().cpu()
            if not bool(logits.amax(-1).isfinite().all()):
                raise NotFiniteError
            scores += score(logits, ids[start + 1 : start + 1 + len(logits)], top, known)
    return scores
