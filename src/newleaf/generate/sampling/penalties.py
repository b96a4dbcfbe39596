"""Logit bias, penalties, forbidden and forced tokens: pure functions on rows of logits [R, V].

Each takes an entry for every row, and returns new logits. Histories are token ids of the prompt and the text,
or of the generated text alone, as each function says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

FORBIDDEN = float("-inf")


def add_bias(logits: Tensor, biases: Sequence[Mapping[int, float]]) -> Tensor:
    """Add each row's biases, by id."""
    logits = logits.clone()
    for row, bias in zip(logits, biases, strict=True):
        if bias:
            row.index_add_(0, torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=row.dtype))
    return logits


def penalize_repetition(
    logits: Tensor, histories: Sequence[Sequence[int]], penalties: Sequence[float]
) -> Tensor:
    """Divide positive logits of ids in the history by the penalty, multiply negative ones (CTRL, 2019)."""
    logits = logits.clone()
    for row, history, penalty in zip(logits, histories, penalties, strict=True):
        if penalty != 1:
            ids = torch.tensor(history, dtype=torch.long)
            seen = row[ids]
            row[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits


def penalize_frequency(
    logits: Tensor, written: Sequence[Sequence[int]], frequency: Sequence[float], presence: Sequence[float]
) -> Tensor:
    """OpenAI's penalties: logit[j] − c[j]·frequency − (c[j] > 0)·presence; c counts generated tokens."""
    logits = logits.clone()
    for row, ids, often, once in zip(logits, written, frequency, presence, strict=True):
        if ids and (often or once):
            counts = torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=len(row))
            row -= counts * often + (counts > 0) * once
    return logits


def forbid_repeated_ngrams(
    logits: Tensor, histories: Sequence[Sequence[int]], sizes: Sequence[int]
) -> Tensor:
    """Forbid ids that would repeat an n-gram of the history (Paulus et al. 2018); size 0 forbids none."""
    logits = logits.clone()
    for row, history, size in zip(logits, histories, sizes, strict=True):
        if size and len(history) >= size:
            ids = torch.tensor(history, dtype=torch.long)
            grams = ids.unfold(0, size, 1)
            repeats = (grams[:, :-1] == ids[len(ids) - size + 1 :]).all(1)
            row[grams[repeats, -1]] = FORBIDDEN
    return logits


def forbid(logits: Tensor, banned: Sequence[Collection[int]]) -> Tensor:
    """Forbid each row's ids."""
    logits = logits.clone()
    for row, ids in zip(logits, banned, strict=True):
        if ids:
            row[torch.tensor(sorted(ids), dtype=torch.long)] = FORBIDDEN
    return logits


def force(logits: Tensor, ids: Sequence[int | None]) -> Tensor:
    """Forbid all but each row's id; None leaves the row as it is."""
    logits = logits.clone()
    for row, token in zip(logits, ids, strict=True):
        if token is not None:
            row.fill_(FORBIDDEN)
            row[token] = 0.0
    return logits
