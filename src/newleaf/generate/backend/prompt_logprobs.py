"""Log-probabilities of a prompt's tokens, read in chunks."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from newleaf.errors import NotFiniteError
from newleaf.generate.backend.chunked_prefill import hidden_state_chunks
from newleaf.generate.sampling.logprobs import TokenScore, score
from newleaf.model import GPT


def score_prompt(network: GPT, ids: Sequence[int], known: int, top: int) -> list[TokenScore]:
    """Scores of a prompt's tokens; `known` is the tokenizer's size. The first has none, since nothing comes
    before it.

    Raises NotFiniteError where the network overflows.
    """
    steps = score_steps(network, ids, known, top)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return list(end.value)


def score_steps(
    network: GPT, ids: Sequence[int], known: int, top: int
) -> Generator[None, None, list[TokenScore]]:
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
