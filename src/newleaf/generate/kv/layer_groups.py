"""Which layers' keys and values lie together: those whose windows are alike, in groups of one size, so that a
page serves any of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE
from newleaf.model import GPTConfig

SCALE = 4  # bytes
MAX_STEP_TOKENS = 256  # tokens that a round reads of one text at most, beside what its windows see
# proposed tokens that may be taken back after windows have moved past them
MAX_ROLLBACK = 32


@dataclass(frozen=True)
class LayerGroup:
    """Some layers, whose queries all see `window` tokens back; 0 sees all."""

    layers: tuple[int, ...]
    window: int

    def first(self, position: int) -> int:
        """The first page that a query at this position sees."""
        return max(0, position + 1 - self.window) // PAGE if self.window else 0

    def most(self, length: int) -> int:
        """Pages that a text of so many tokens needs at once."""
        pages = -(-length // PAGE)
        return (
            min(pages, -(-(self.window + MAX_STEP_TOKENS + MAX_ROLLBACK) // PAGE) + 1)
            if self.window
            else pages
        )


def layer_groups_of(config: GPTConfig) -> tuple[LayerGroup, ...]:
    """A network without windows has one layer group of all its layers, gpt-oss two of half of them each."""
    layers: dict[int, list[int]] = {}
    for layer, window in enumerate(config.windows or (0,) * config.n_layer):
        layers.setdefault(window if window < config.context_length else 0, []).append(layer)
    size = math.gcd(*(len(alike) for alike in layers.values()))
    return tuple(
        LayerGroup(tuple(alike[start : start + size]), window)
        for window, alike in sorted(layers.items())
        for start in range(0, len(alike), size)
    )


def width_of(config: GPTConfig) -> int:
    """A head's width filled up to whole vectors."""
    return -(-config.head_dim // LANES) * LANES


def head_bytes(config: GPTConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of one head's keys in a page, and of its values; torch.int8 is codes with their scales."""
    width = width_of(config)
    plain = PAGE * width * dtype.itemsize
    return (
        (plain + PAGE * SCALE * -(-width // KEY_GROUP), plain + PAGE * SCALE)
        if dtype == torch.int8
        else (plain, plain)
    )
