"""How likely each token was: log-probabilities of the network itself, before any penalty, temperature or truncation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newleaf.errors import NotFiniteError
from newleaf.generate.backend.chunked_prefill import hidden_state_chunks
from newleaf.model import GPT


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


def score_prompt(network: GPT, ids: Sequence[int], known: int, top: int) -> list[TokenScore]:
    """Scores of a prompt's tokens; `known` is the tokenizer's size. The first has none, since nothing comes before it.

    Raises NotFiniteError where the network overflows.
    """
    steps = score_steps(network, ids, known, top)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return list(end.value)


def score_steps(network: GPT, ids: Sequence[int], known: int, top: int) -> Generator[None, None, list[TokenScore]]:
    """`score_prompt` in pieces, after each of which others may have their turn."""
    scores = [TokenScore(ids[0], None)]
    for hidden in hidden_state_chunks(network, ids[:-1]):
        with torch.no_grad():
            logits = network.head(hidden).float().cpu()
        if not bool(logits.amax(-1).isfinite().all()):
            raise NotFiniteError
        scores += score(logits, ids[len(scores) : len(scores) + len(logits)], top, known)
        yield
    return scores
