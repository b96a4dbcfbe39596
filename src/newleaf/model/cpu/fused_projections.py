"""Layers that read the same vectors, as one matrix product, whatever has taken the place of a plain one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Replacement(nn.Module):
    """A layer in a Linear's place that knows how to take its product along with those of its neighbours,
    plain ones among them."""

    def fused_projection(self, x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        """The outputs of all `layers`, of which this is one, one after the other: x [..., C] → [..., sum of
        rows]."""
        raise NotImplementedError


def joinable(*layers: nn.Module | None) -> bool:
    """Whether `fused_projection` takes these layers."""
    return all(type(layer) is nn.Linear or isinstance(layer, Replacement) for layer in layers)


def fused_projection(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """The outputs of all layers, one after the other: x [..., C] → [..., sum of rows]."""
    for layer in layers:
        if isinstance(layer, Replacement):
            return layer.fused_projection(x, layers)
    return F.linear(
        x, stacked([layer.weight for layer in layers if isinstance(layer, nn.Linear)]), stacked_bias(layers)
    )


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """Matrices above each other; frozen ones that `make_contiguous` has put so are not copied."""
    if len(weights) == 1:
        return weights[0]
    if not any(weight.requires_grad for weight in weights) and _adjacent(weights):
        rows, columns = sum(len(weight) for weight in weights), weights[0].shape[1]
        return weights[0].detach().as_strided((rows, columns), (columns, 1))
    return torch.cat(list(weights))


def stacked_bias(layers: Sequence[nn.Module]) -> Tensor | None:
    """The biases of layers, of which all have one or none has."""
    found = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    return torch.cat(found) if found else None


def make_contiguous(layers: Sequence[nn.Linear]) -> None:
    """Move the weights of frozen layers into one piece of memory, so that their common product needs no
    copy."""
    if _adjacent([layer.weight for layer in layers]):
        return
    whole = torch.cat([layer.weight.detach() for layer in layers])
    for layer, part in zip(layers, torch.split(whole, [len(layer.weight) for layer in layers]), strict=True):
        layer.weight.data = part


def _adjacent(weights: Sequence[Tensor]) -> bool:
    end = weights[0].data_ptr()
    storage = weights[0].untyped_storage().data_ptr()
    for weight in weights:
        alike = (
            weight.dtype == weights[0].dtype
            and weight.shape[1:] == weights[0].shape[1:]
            and weight.is_contiguous()
        )
        if not alike or weight.data_ptr() != end or weight.untyped_storage().data_ptr() != storage:
            return False
        end += weight.nbytes
    return True
