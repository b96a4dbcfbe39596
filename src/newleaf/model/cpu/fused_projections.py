"""Several linear layers of the same input as one matrix product, also where adapters replace some of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class LinearReplacement(nn.Module):
    """A layer in a Linear's place that can compute its product together with those of other layers."""

    def fused_projection(self, x: Float[Tensor, "*batch C"], layers: Sequence[nn.Module]) -> Tensor:
        """The outputs of all `layers`, of which this is one, concatenated: [..., sum of rows]."""
        raise NotImplementedError


def are_fusable(*layers: nn.Module | None) -> bool:
    """Whether `fused_projection` takes these layers."""
    return all(type(layer) is nn.Linear or isinstance(layer, LinearReplacement) for layer in layers)


def fused_projection(x: Float[Tensor, "*batch C"], layers: Sequence[nn.Module]) -> Tensor:
    """The outputs of all layers, concatenated: [..., sum of rows]."""
    for layer in layers:
        if isinstance(layer, LinearReplacement):
            return layer.fused_projection(x, layers)
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    return F.linear(x, stacked(weights), stacked_bias(layers))


def stacked(weights: Sequence[Tensor]) -> Tensor:
    """Matrices concatenated by rows, without a copy where `make_contiguous` has laid them out so."""
    if len(weights) == 1:
        return weights[0]
    if not any(weight.requires_grad for weight in weights) and _adjacent(weights):
        rows, columns = sum(len(weight) for weight in weights), weights[0].shape[1]
        return weights[0].detach().as_strided((rows, columns), (columns, 1))
    return torch.cat(list(weights))


def stacked_bias(layers: Sequence[nn.Module]) -> Tensor | None:
    """The biases, concatenated; either all layers have one or none has."""
    found = [layer.bias for layer in layers if isinstance(layer.bias, Tensor)]
    return torch.cat(found) if found else None


def make_contiguous(layers: Sequence[nn.Linear]) -> None:
    """Move the weights of frozen layers into one block of memory, so that `stacked` needs no copy."""
    if _adjacent([layer.weight for layer in layers]):
        return
    matrix = torch.cat([layer.weight.detach() for layer in layers])
    parts = torch.split(matrix, [len(layer.weight) for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight.data = part


def _adjacent(weights: Sequence[Tensor]) -> bool:
    """Whether the matrices lie one after the other in one storage."""
    end = weights[0].data_ptr()
    storage = weights[0].untyped_storage().data_ptr()
    for weight in weights:
        is_like_first = weight.dtype == weights[0].dtype and weight.shape[1:] == weights[0].shape[1:]
        is_next = weight.data_ptr() == end and weight.untyped_storage().data_ptr() == storage
        if not (is_like_first and is_next and weight.is_contiguous()):
            return False
        end += weight.nbytes
    return True
