"""Which tokens become likelier, unlikelier, forbidden or certain before anything is drawn: pure functions on
rows of logits [R, V].

Each takes an entry for every row, and returns new logits. Histories are token ids, those of the prompt and
what was written, or what was written alone, as each function says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

FORBIDDEN = float("-inf")


def add_bias(logits: Tensor, biases: Sequence[Mapping[int, float]]) -> Tensor:
    """Add to each row's logits [R, V] the numbers given for its ids."""
    logits = logits.clone()
    for row, bias in zip(logits, biases, strict=True):
        if bias:
            row.index_add_(0, torch.tensor(list(bias)), torch.tensor(list(bias.values()), dtype=row.dtype))
    return logits


def penalize_repetition(
    logits: Tensor, histories: Sequence[Sequence[int]], penalties: Sequence[float]
) -> Tensor:
    """Divide the positive logits of ids in the row's history by its penalty, multiply the negative ones
    (Keskar et al. 2019, CTRL)."""
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
    """OpenAI's two penalties: logit[j] − c[j]·frequency − (c[j] > 0)·presence, c[j] being how often j was
    written; the prompt does not count."""
    logits = logits.clone()
    for row, ids, often, once in zip(logits, written, frequency, presence, strict=True):
        if ids and (often or once):
            counts = torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=len(row))
            row -= counts * often + (counts > 0) * once
    return logits


def forbid_repeated_ngrams(
    logits: Tensor, histories: Sequence[Sequence[int]], sizes: Sequence[int]
) -> Tensor:
    """Forbid every id that would complete an n-gram of the row's size which its history already has (Paulus
    et al. 2018); a size of 0 forbids none."""
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
