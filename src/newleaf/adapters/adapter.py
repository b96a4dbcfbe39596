"""An adapter as a thing of its own: what it changes of which weight; put on a network, taken from one, merged
into weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from newleaf.adapters.adapted_layers import AdaptedLinear, AdaptedStack
from newleaf.adapters.modules_to_save import HEAD, TABLE, put_whole, unpacked
from newleaf.errors import InputError
from newleaf.model import GPT, GPTConfig
from newleaf.model.attention import Attention
from newleaf.model.cpu.fused_projections import make_contiguous
from newleaf.model.feedforward import FeedForward
from newleaf.quant.packed import Packed
from newleaf.quant.packed_layers import PackedWeight, PlainWeights


@dataclass(frozen=True)
class Part:
    """The update of one weight: `scale` · b · a, with a [r, C] and b [R, r], or [E, r, C] and [E, R, r] for
    experts; DoRA's lengths [R]."""

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None

    def merged(self, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The weight with the update in it, in its own type or this one; the sum is made in fp32."""
        whole = weight.float() + self.scale * (self.b.float() @ self.a.float())
        if self.magnitude is not None:
            whole *= (self.magnitude.float() / whole.norm(dim=1)).unsqueeze(1)
        return whole.to(dtype or weight.dtype)


@dataclass(frozen=True)
class Adapter:
    """`parts` by the names of a network's weights; those that Hugging Face stores as one tensor share their
    `a`.

    `about` is PEFT's adapter_config.json; `base` what is known of the weights it was trained on (see
    `fingerprint.py`), where it is; `score` a classifier's head [L, C], trained whole beside the updates;
    `whole` are weights of the network that stand in the adapter themselves, trained or copied from its base.
    """

    parts: dict[str, Part]
    about: dict[str, Any]
    base: dict[str, Any] | None = None
    score: Tensor | None = None
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    def over(self, config: GPTConfig) -> GPTConfig:
        """The configuration of a network with this adapter: head and embedding are apart where it changes one
        of them."""
        apart = not {HEAD, TABLE}.isdisjoint((*self.parts, *self.whole))
        return config.replace(tie_embeddings=False) if config.tie_embeddings and apart else config

    @property
    def dropout(self) -> float:
        return float(self.about.get("lora_dropout") or 0.0)


def weight_of(network: GPT, name: str) -> Tensor | Packed:
    """A weight of the base, as it is kept."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    found: Any = module if leaf == "weight" else getattr(module, leaf)
    if isinstance(found, AdaptedLinear | AdaptedStack):
        found = found.base
    if isinstance(found, PackedWeight):
        return found.packed
    weight: Tensor = found.weight if isinstance(found, nn.Linear | nn.Embedding) else found
    return weight


def attach(network: GPT, adapter: Adapter) -> list[str]:
    """Freeze the network and put the adapter on it; what is trained from now on is the adapter. Returns the
    names of weights that it replaces whole, and does not share with the base.

    Raises InputError when the network has one already, or has not the layers or shapes that the adapter
    wants.
    """
    network.requires_grad_(False)
    shared: dict[int, nn.Parameter] = {}
    network.config = adapter.over(network.config)
    replaced = [name for name, tensor in adapter.whole.items() if put_whole(network, name, tensor)]
    for name, part in adapter.parts.items():
        if name == TABLE:
            replaced.append(name)
            put_whole(network, name, part.merged(unpacked(weight_of(network, name))))
            continue
        path, _, leaf = name.rpartition(".")
        try:
            weight = weight_of(network, name)
            layer: Any = (
                network.get_submodule(path)
                if leaf == "weight"
                else getattr(network.get_submodule(path), leaf)
            )
        except AttributeError:
            raise InputError(
                f"the adapter changes {name}, which this network has not: it belongs to another base"
            ) from None
        if isinstance(layer, AdaptedLinear | AdaptedStack):
            raise InputError("this network has an adapter already; merge it first, or open the base again")
        wanted = (*part.b.shape[:-1], part.a.shape[-1])
        if tuple(weight.shape) != wanted:
            raise InputError(
                f"the adapter wants {name} of shape {wanted}, and it is {tuple(weight.shape)}: it belongs "
                f"to another base"
            )
        a = shared.setdefault(id(part.a), nn.Parameter(part.a.clone()))
        b = nn.Parameter(part.b.clone())
        if leaf == "weight":
            magnitude = nn.Parameter(part.magnitude.clone()) if part.magnitude is not None else None
            over: nn.Module = AdaptedLinear(layer, a, b, part.scale, adapter.dropout, magnitude)
            parent, _, leaf = path.rpartition(".")
            setattr(network.get_submodule(parent), leaf, over.train(network.training))
        else:
            delattr(network.get_submodule(path), leaf)
            setattr(network.get_submodule(path), leaf, AdaptedStack(layer, a, b, part.scale))
    network.to(network.device)
    return replaced


def lay_out(network: GPT) -> None:
    """Put the frozen weights of layers that are read together into one piece of memory, as training wants
    them."""
    for module in network.modules():
        if isinstance(module, Attention):
            group = [module.q, module.k, module.v]
        elif isinstance(module, FeedForward) and module.gate is not None:
            group = [module.gate, module.up]
        else:
            continue
        layers = [layer.base if isinstance(layer, AdaptedLinear) else layer for layer in group]
        if all(type(layer) is nn.Linear and not layer.weight.requires_grad for layer in layers):
            make_contiguous([layer for layer in layers if isinstance(layer, nn.Linear)])


def parameters_of(parts: Mapping[str, Part]) -> dict[str, Tensor]:
    """The values of an adapter by the names that they have as parameters of the network that it is on."""
    found: dict[str, Tensor] = {}
    for name, part in parts.items():
        path = name.removesuffix(".weight")
        found |= {f"{path}.a": part.a, f"{path}.b": part.b} | (
            {f"{path}.magnitude": part.magnitude} if part.magnitude is not None else {}
        )
    return found


def share(network: GPT) -> GPT:
    """A network of its own over the same weights, to put an adapter on while the other stays as it is."""
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, kept)


def adapted_layers(network: nn.Module) -> dict[str, AdaptedLinear | AdaptedStack]:
    """The adapted layers by the names of their weights."""
    found: dict[str, AdaptedLinear | AdaptedStack] = {}
    for path, module in network.named_modules():
        if isinstance(module, AdaptedLinear):
            found[f"{path}.weight"] = module
        elif isinstance(module, AdaptedStack):
            found[path] = module
    return found


def parts_of(network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> dict[str, Part]:
    """The adapter on a network, as it is now; or with the values in `weights`, by the names of the network's
    parameters (an optimizer's fp32 masters)."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}

    def value(parameter: Tensor) -> Tensor:
        return parameter.detach() if weights is None else weights[names[id(parameter)]]

    shared: dict[int, Tensor] = {}
    parts = {}
    for name, layer in adapted_layers(network).items():
        a = shared.setdefault(id(layer.a), value(layer.a))
        magnitude = layer.magnitude if isinstance(layer, AdaptedLinear) else None
        parts[name] = Part(
            a, value(layer.b), layer.scale, value(magnitude) if magnitude is not None else None
        )
    return parts


def bare(network: GPT) -> GPT:
    """The network under its adapter, over the same weights."""
    found = share(network)
    for name, layer in adapted_layers(found).items():
        path, _, leaf = name.removesuffix(".weight").rpartition(".")
        parent = found.get_submodule(path)
        delattr(parent, leaf)
        setattr(parent, leaf, layer.base)
    return found


def whole_weights(network: GPT) -> Mapping[str, Tensor]:
    """A network's weights under their own names, packed ones unpacked and its adapter, if it has one,
    merged."""
    parts = parts_of(network)
    return MergedWeights(PlainWeights(bare(network)), parts) if parts else PlainWeights(network)


@dataclass(frozen=True)
class MergedWeights(Mapping[str, Tensor]):
    """A base's weights by name with an adapter's updates in them, each made when it is asked for."""

    base: Mapping[str, Tensor]
    parts: Mapping[str, Part]
    dtype: torch.dtype | None = None  # of the merged ones; None keeps the base's
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        weight = self.base[name]
        if name in self.whole:
            weight = self.whole[name].to(weight.dtype)
        return self.parts[name].merged(weight, self.dtype) if name in self.parts else weight

    def __contains__(self, name: object) -> bool:
        return name in self.base

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)
