"""Weights that an adapter brings whole, in the place of the base's: trained ones, and copies of the base's
own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.model import GPT
from newleaf.quant.packed import Packed
from newleaf.quant.packed_layers import PackedEmbedding, PackedWeight

HEAD, TABLE = "head.weight", "embedding.token.weight"
NEAR = 0.25  # of the weights' length: how far four bits are from what they were made of


def put_whole(network: GPT, name: str, tensor: Tensor) -> bool:
    """Give the network this weight in place of its own, in its type; False where it has the same one already.

    A packed weight is kept where the tensor is what it was made of. Raises InputError where it does not fit.
    """
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if isinstance(module, PackedWeight):
        plain = unpacked(module.packed)
        if plain.shape == tensor.shape and (plain - tensor.float()).norm() <= NEAR * plain.norm():
            return False
        bias = getattr(module, "bias", None)
        fresh: nn.Module = nn.Embedding.from_pretrained(tensor.to(network.dtype))  # type: ignore[no-untyped-call]
        if not isinstance(module, PackedEmbedding):
            fresh = nn.Linear(tensor.shape[1], tensor.shape[0], bias=bias is not None)
            fresh.weight = nn.Parameter(tensor.to(network.dtype))
            if bias is not None:
                fresh.bias = nn.Parameter(bias)
        parent, _, last = path.rpartition(".")
        setattr(network.get_submodule(parent), last, fresh.requires_grad_(False))
        return True
    own = getattr(module, leaf)
    if own.shape != tensor.shape:
        raise InputError(
            f"the adapter has {name} of shape {tuple(tensor.shape)}, and it is {tuple(own.shape)}: it "
            f"belongs to another base"
        )
    given = tensor.to(own.dtype)
    if torch.equal(given.to(own.device), own):
        return False
    setattr(module, leaf, nn.Parameter(given, requires_grad=False))
    return True


def unpacked(weight: Tensor | Packed) -> Tensor:
    """The numbers of a weight, fp32 where it is packed."""
    return torch.cat([part.unpack() for _, part in weight.chunks()]) if isinstance(weight, Packed) else weight
