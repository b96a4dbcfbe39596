"""Temperature, top_k, top_p, min_p and typical_p, and the random draw; on rows [R, V].

In NumPy, whose passes over one row of a vocabulary take a fraction of PyTorch's time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from newleaf.generate.options import SamplingConfig as SamplingConfig

BLOCK = 256  # tokens
SMALLEST = float(np.finfo(np.float32).tiny)

Float32Array = npt.NDArray[np.float32]  # [V]: logits, or unnormalized probabilities


def probabilities(logits: Tensor, configs: Sequence[SamplingConfig]) -> Tensor:
    """Logits [R, V] → fp32 probabilities [R, V]: temperature, top_k, top_p, min_p, typical_p, in this order.

    Every temperature must be above 0, and every row must have an allowed token.
    """
    rows = logits.float().numpy()
    found = np.empty(rows.shape, dtype=np.float32)
    for row, config, out in zip(rows, configs, found, strict=True):
        # The maximum moves to 0, so that neither small temperatures nor exponentials overflow.
        np.subtract(row, row.max(), out=out)
        if config.temperature != 1.0:
            with np.errstate(over="ignore"):
                out /= max(config.temperature, SMALLEST)
        if 0 < config.top_k < len(out):
            keep_top_k(out, config.top_k)
        np.exp(out, out=out)
        if config.top_p < 1.0:
            keep_top_p(out, config.top_p)
        if config.min_p > 0.0:
            out[out < config.min_p * out.max()] = 0.0
        if config.typical_p < 1.0:
            keep_typical(out, config.typical_p)
        out /= out.sum()
    return torch.from_numpy(found)


def keep_top_k(logits: Float32Array, k: int) -> None:
    """Keep the k likeliest tokens, and ties with the last of them."""
    least = np.partition(logits, len(logits) - k)[len(logits) - k]
    logits[logits < least] = -np.inf


def keep_top_p(weights: Float32Array, p: float) -> None:
    """Keep the fewest likeliest tokens whose probabilities reach p (Holtzman et al. 2020)."""
    total = float(weights.sum())
    # The others sum to less than 1 − p, so they need not be sorted.
    heavy = np.flatnonzero(weights >= (1 - p) * total / len(weights))
    found = weights[heavy]
    ordered = np.sort(found)[::-1]
    count = _needed(ordered, p * total)
    least = ordered[count - 1]
    above, ties = heavy[found > least], heavy[found == least]
    _keep(weights, np.concatenate((above, ties[: count - len(above)])))


def keep_typical(weights: Float32Array, p: float) -> None:
    """Keep the fewest tokens nearest in surprisal to the entropy that reach p (Meister et al. 2023)."""
    possible = np.flatnonzero(weights)
    chances = weights[possible] / weights.sum()
    surprisal = -np.log(chances)
    order = np.abs(surprisal - (chances * surprisal).sum()).argsort(kind="stable")
    _keep(weights, possible[order[: _needed(chances[order], p)]])


def _needed(ordered: Float32Array, goal: float) -> int:
    """How many entries, from the front, reach `goal`; at least one."""
    return min(int(np.searchsorted(ordered.cumsum(dtype=np.float64), goal)) + 1, len(ordered))


def _keep(weights: Float32Array, ids: npt.NDArray[np.int64]) -> None:
    kept = weights[ids]
    weights[:] = 0.0
    weights[ids] = kept


def draw(chances: Tensor, numbers: Sequence[float]) -> Tensor:
    """Ids [R] from probabilities [R, V] by inversion: the first whose cumulative sum exceeds the number."""
    return torch.tensor([_drawn(row, number) for row, number in zip(chances.numpy(), numbers, strict=True)])


def _drawn(row: Float32Array, number: float) -> int:
    """First the block, then the token in it, since a cumulative sum of the full vocabulary is slow."""
    full = len(row) // BLOCK * BLOCK
    reached = np.append(row[:full].reshape(-1, BLOCK).sum(1), row[full:].sum()).cumsum(dtype=np.float64)
    goal = _below(number * reached[-1], reached)
    block = int(np.searchsorted(reached, goal, side="right"))
    within = row[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    left = _below(goal - (reached[block - 1] if block else 0.0), within)
    return block * BLOCK + int(np.searchsorted(within, left, side="right"))


def _below(goal: float, reached: npt.NDArray[np.float64]) -> float:
    """The goal, kept below the last cumulative sum, which rounding could reach."""
    return min(goal, float(np.nextafter(reached[-1], 0.0)))
