"""A network put together from weights as they come off the disk, each in its final type before the next is
read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.quant.packed import FORMATS, Format, Packed
from newleaf.quant.packed_layers import PackedEmbedding, PackedLinear, PackedWeight, packable, put_packed
from newleaf.quant.quantize import quantize

Precision = torch.dtype | Format
PRECISIONS: dict[str, Precision] = {"fp32": torch.float32, "bf16": torch.bfloat16, **FORMATS}


def empty_network(config: GPTConfig) -> GPT:
    """A network without memory behind its weights."""
    with torch.device("meta"):
        return GPT(config)


def load_weights(
    network: GPT, weights: Iterable[tuple[str, Tensor | Packed]], precision: Precision | None
) -> GPT:
    """Fill a blank network with its weights, in any order; a tied head may be left out.

    `precision`: None keeps the type each weight has; a Format packs what can be packed and leaves the rest, a
      few thousandths, in fp32. What comes packed stays so. Raises ValueError when a weight did not come.
    """
    packs = packable(network) if isinstance(precision, Format) else set()
    tied = network.config.tie_embeddings
    for name, weight in weights:
        if tied and name == "head.weight":
            continue
        if isinstance(weight, Tensor):
            weight = _converted(name, weight, precision, name in packs)
        if isinstance(weight, Packed):
            put_packed(network, name, weight)
        else:
            path, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(path), leaf, nn.Parameter(weight, weight.is_floating_point()))
    table: nn.Module = network.embedding.token
    if tied and isinstance(table, PackedEmbedding):
        network.add_module("head", PackedLinear(table.packed))
    elif tied:
        network.head.weight = network.embedding.token.weight
    missing = [name for name, weight in network.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(f"the weights lack {missing[0]}")
    for module in network.modules():
        if isinstance(module, PackedWeight):
            module.dtype = network.dtype
    network.embedding.fill_sinusoids()
    return network.eval()


def _converted(name: str, weight: Tensor, precision: Precision | None, packs: bool) -> Tensor | Packed:
    if isinstance(precision, Format) and packs:
        try:
            return quantize(weight, precision)
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
    if isinstance(precision, Format):
        precision = torch.float32
    return weight.to(precision) if precision and weight.is_floating_point() else weight
