"""Layer groups of the paged KV cache: layers with one window, in groups of equal size that share pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from newleaf.generate.kernels.layout import KEY_GROUP, LANES, PAGE
from newleaf.model import GPTConfig

SCALE = 4  # bytes
MAX_STEP_TOKENS = 256  # tokens of one sequence in a step
# rejected proposals that a window keeps pages for
MAX_ROLLBACK = 32


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose queries all see `window` tokens back; 0 sees all."""

    layers: tuple[int, ...]
    window: int

    def first(self, position: int) -> int:
        """The index of the first page that a query at this position sees."""
        return max(0, position + 1 - self.window) // PAGE if self.window else 0

    def max_pages(self, length: int) -> int:
        """The most pages that a sequence of so many tokens needs at once."""
        pages = -(-length // PAGE)
        return (
            min(pages, -(-(self.window + MAX_STEP_TOKENS + MAX_ROLLBACK) // PAGE) + 1)
            if self.window
            else pages
        )


def layer_groups_of(config: GPTConfig) -> tuple[LayerGroup, ...]:
    """The layer groups of a network: one without windows; two of equal size for gpt-oss."""
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
    """A head's width, padded to full vectors."""
    return -(-config.head_dim // LANES) * LANES


def head_bytes(config: GPTConfig, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of a head's keys in a page, and of its values; torch.int8 is codes with scales."""
    width = width_of(config)
    plain = PAGE * width * dtype.itemsize
    return (
        (plain + PAGE * SCALE * -(-width // KEY_GROUP), plain + PAGE * SCALE)
        if dtype == torch.int8
        else (plain, plain)
    )
