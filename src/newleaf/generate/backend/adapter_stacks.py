"""What the adapters of several networks over the same weights add to each matrix, as stacks from which each
row takes its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newleaf.adapters.adapted_layers import AdaptedLinear, AdaptedStack, rows_of
from newleaf.generate.backend.lowered_program import CannotLower, up
from newleaf.generate.kernels.layout import LANES
from newleaf.model import GPT


@dataclass(frozen=True)
class AdapterStack:
    """`a` fp32 [N, r, C] and `b` [N, R, r] of N networks, ranks filled up with zeros; DoRA's factors `gain`
    [N, R], where one has them."""

    a: Tensor
    b: Tensor
    gain: Tensor | None


class AdapterStacks:
    """Updates by the layers of the first network; empty where no network has an adapter."""

    def __init__(self) -> None:
        self._of: dict[int, AdapterStack] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def get(self, layer: Any) -> AdapterStack | None:
        return self._of.get(id(layer))

    @classmethod
    def of(cls, networks: Sequence[GPT]) -> AdapterStacks:
        """Raises CannotLower for adapters that the kernels do not know."""
        found, shared = cls(), dict[tuple[int, ...], Tensor]()
        if any(isinstance(module, AdaptedStack) for network in networks for module in network.modules()):
            raise CannotLower("it has adapters on experts")
        paths = {
            path
            for network in networks
            for path, module in network.named_modules()
            if isinstance(module, AdaptedLinear)
        }
        for path in sorted(paths):
            layers = [
                layer if isinstance(layer := network.get_submodule(path), AdaptedLinear) else None
                for network in networks
            ]
            found._of[id(networks[0].get_submodule(path))] = _stacked(layers, shared)
        return found


@torch.no_grad()
def _stacked(layers: Sequence[AdaptedLinear | None], shared: dict[tuple[int, ...], Tensor]) -> AdapterStack:
    there = [layer for layer in layers if layer is not None]
    rank, columns, rows = (
        up(max(len(layer.a) for layer in there), LANES),
        there[0].a.shape[1],
        rows_of(there[0]),
    )
    key = tuple(id(layer.a) if layer is not None else 0 for layer in layers)
    if key not in shared:
        shared[key] = torch.zeros(len(layers), rank, columns)
        for number, layer in enumerate(layers):
            if layer is not None:
                shared[key][number, : len(layer.a)] = layer.a
    b, gain = torch.zeros(len(layers), rows, rank), torch.ones(len(layers), rows)
    for number, layer in enumerate(layers):
        if layer is not None:
            b[number, :, : len(layer.a)] = layer.b * layer.scale
            if layer.magnitude is not None:
                gain[number] = layer.gain()
                b[number] *= gain[number].unsqueeze(1)
    return AdapterStack(shared[key], b, gain if any(layer.magnitude is not None for layer in there) else None)
