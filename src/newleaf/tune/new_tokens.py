"""Tokens that a task adds to a model: which they are, and rows for them in the network's matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

NOISE = 0.02  # of the spread of the rows that are there


def new_tokens(before: Tokenizer, after: Tokenizer) -> list[int]:
    """Ids that only the second tokenizer gives."""
    known = before.backend.get_vocab(with_added_tokens=True)
    return sorted(
        number
        for token, number in after.backend.get_vocab(with_added_tokens=True).items()
        if token not in known
    )


@torch.no_grad()
def add_rows(network: GPT, tokens: list[int], known: int, seed: int) -> GPT:
    """The network with rows for new tokens in embedding and head: the mean of the `known` first rows and a
    little noise.

    With the mean, no text becomes much less likely than it was (Hewitt 2021). Changes the network, and
    returns it. Raises InputError for one whose matrices are packed.
    """
    matrix, head = network.embedding.token, network.head
    if not tokens:
        return network
    if type(head) is not nn.Linear or not isinstance(matrix, nn.Embedding):
        raise InputError(
            "this model has no chat template, and new tokens cannot be added to packed weights; open it "
            "without --weights"
        )
    generator = torch.Generator().manual_seed(seed)
    size = max(network.config.vocab_size, max(tokens) + 1)
    tied = network.config.tie_embeddings
    matrix.weight = nn.Parameter(_grown(matrix.weight, size, tokens, known, generator))
    head.weight = matrix.weight if tied else nn.Parameter(_grown(head.weight, size, tokens, known, generator))
    if head.bias is not None:
        head.bias = nn.Parameter(_grown(head.bias, size, tokens, known, generator))
    matrix.num_embeddings = head.out_features = size
    network.config = network.config.replace(vocab_size=size)
    return network


def _grown(old: Tensor, size: int, tokens: list[int], known: int, generator: torch.Generator) -> Tensor:
    rows = old[:known].float()
    grown = old.new_zeros(size, *old.shape[1:])
    grown[: len(old)] = old
    for token in tokens:
        noise = torch.randn(rows.shape[1:], generator=generator)
        grown[token] = (rows.mean(0) + NOISE * rows.std(0) * noise.to(rows.device)).to(old.dtype)
    return grown
