"""From logits to a draw: temperature, the truncations, and the draw itself; pure functions on rows [R, V] with a setting for each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from newleaf.generate.options import SamplingConfig as SamplingConfig

NEVER = float("-inf")
BLOCK = 256  # tokens
HEAD = 1024  # likeliest tokens that usually hold the whole of top_p: finding them takes a tenth of sorting a vocabulary


def keep_top_k(logits: Tensor, k: Tensor) -> Tensor:
    """Keep each row's k [R] likeliest, and ties with the last of them; 0 keeps all."""
    counts = k.clamp(max=logits.shape[-1])
    most = int(counts.max())
    if most == 0:
        return logits
    ordered = logits.topk(most).values
    least = ordered.gather(1, (counts - 1).clamp(min=0)[:, None])
    return logits.masked_fill((logits < least) & (counts > 0)[:, None], NEVER)


def keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep each row's fewest likeliest tokens whose probabilities reach p [R] (Holtzman et al. 2020): those before which less than p
    lies."""
    total = logits.logsumexp(-1, keepdim=True)
    for size in (min(HEAD, logits.shape[-1]), logits.shape[-1]):
        best, order = logits.topk(size)
        chances = (best - total).exp()
        reached = chances.cumsum(-1)
        if bool(((reached[:, -1] >= p) | (p >= 1)).all()):
            break
    keep = reached - chances < p[:, None]
    keep[:, 0] = True
    kept = torch.full_like(logits, NEVER).scatter(1, order, best.masked_fill(~keep, NEVER))
    return torch.where((p < 1)[:, None], kept, logits)


def keep_min_p(logits: Tensor, p: Tensor) -> Tensor:
    """Keep tokens at least p [R] times as likely as the row's likeliest (Nguyen et al. 2024); 0 keeps all."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + p.log()[:, None], NEVER)


def keep_typical(logits: Tensor, p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest the row's entropy, the fewest that reach p [R] (Meister et al. 2023); 1 keeps all."""
    log_chances = logits.log_softmax(-1)
    chances = log_chances.exp()
    entropy = -(chances * log_chances).nansum(-1, keepdim=True)
    order = (-log_chances - entropy).abs().sort(-1).indices
    ordered = chances.gather(1, order)
    keep = ordered.cumsum(-1) - ordered < p[:, None]
    keep[:, 0] = True
    keep = torch.zeros_like(keep).scatter(1, order, keep)
    return logits.masked_fill(~keep & (p < 1)[:, None], NEVER)


def probabilities(logits: Tensor, configs: Sequence[SamplingConfig]) -> Tensor:
    """Temperature, top_k, top_p, min_p, typical_p, in this order: logits [R, V] → probabilities [R, V] in fp32.

    Every temperature must be above 0, and every row must have a token that is not forbidden.
    """
    logits = logits.float()
    for name, off, step in STEPS:
        values = [getattr(config, name) for config in configs]
        if any(value != off for value in values):
            logits = step(logits, torch.tensor(values))
    return logits.softmax(-1)


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """Logits divided by each row's temperature [R]; the likeliest is moved to 0 first, so that small temperatures do not overflow."""
    return (logits - logits.amax(-1, keepdim=True)) / temperature[:, None]


STEPS = (
    ("temperature", 1.0, scale),
    ("top_k", 0, keep_top_k),
    ("top_p", 1.0, keep_top_p),
    ("min_p", 0.0, keep_min_p),
    ("typical_p", 1.0, keep_typical),
)


def draw(chances: Tensor, numbers: Sequence[float]) -> Tensor:
    """Ids [R] from probabilities [R, V] by inversion: the first token up to which more than the row's number in [0, 1) lies.

    In two steps, first the block and then the token in it, since adding up a whole vocabulary one by one is slow.
    """
    rows, size = chances.shape
    blocks = torch.nn.functional.pad(chances, (0, -size % BLOCK)).view(rows, -1, BLOCK)
    reached = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    goals = torch.tensor(numbers, dtype=torch.float64)[:, None] * reached[:, -1:]
    block = torch.searchsorted(reached, _below(goals, reached), right=True)
    left = goals - torch.where(block > 0, reached.gather(1, (block - 1).clamp(min=0)), 0.0)
    within = blocks[torch.arange(rows), block.squeeze(1)].double().cumsum(-1)
    return (block * BLOCK + torch.searchsorted(within, _below(left, within), right=True)).squeeze(1)


def _below(goals: Tensor, reached: Tensor) -> Tensor:
    """Goals [R, 1] below the last of what is reached [R, N], where rounding may have put them, so that there is always a token to draw."""
    return torch.minimum(goals, torch.nextafter(reached[:, -1:], torch.zeros(1, dtype=torch.float64)))
