"""Packed layers in the place of plain ones: a built network keeps its shape and its arithmetic, in a quarter
of the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newleaf.quant.packed import Packed


class PackedWeight(nn.Module):
    """A packed matrix, or a stack of them, as a part of a network: its tensors move with it and are never
    trained."""

    codes: Tensor
    scales: Tensor
    minimums: Tensor | None
    dtype = torch.float32  # of what comes out where no input says it

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.shape, self.format, self.factor, self.values = (
            packed.shape,
            packed.format,
            packed.factor,
            packed.values,
        )
        self.register_buffer("codes", packed.codes)
        self.register_buffer("scales", packed.scales)
        self.register_buffer("minimums", packed.minimums)

    @property
    def packed(self) -> Packed:
        return Packed(
            self.codes, self.scales, self.shape, self.format, self.factor, self.minimums, self.values
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`network.to(...)`: codes and scales move but keep their formats; what they are unpacked to follows
        the network."""
        self.dtype = fn(torch.zeros(1, dtype=self.dtype)).dtype
        for name, tensor in list(self._buffers.items()):
            if tensor is not None:
                self._buffers[name] = tensor.to(fn(tensor[:0]).device)
        bias = self._parameters.get("bias")
        if bias is not None:
            bias.data = fn(bias.data)
        return self

    @property
    def weight(self) -> Tensor:
        """The weights themselves, made anew each time."""
        return self.packed.unpack().to(self.dtype)


class PackedLinear(PackedWeight):
    """x [..., columns] → [..., rows] in x's type, the weights unpacked a few rows at a time. Gradients flow
    to x and to the bias."""

    def __init__(self, packed: Packed, bias: nn.Parameter | None = None) -> None:
        super().__init__(packed)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self.packed)  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype)


class PackedEmbedding(PackedWeight):
    """ids [...] → [..., columns]."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.packed.take(ids).to(self.dtype)


class PackedStack(PackedWeight):
    """A mixture's matrices [E, rows, columns]; `stack[e]` is one of them."""

    def __getitem__(self, number: int) -> Tensor:
        return self.packed.matrix(number).unpack().to(self.dtype)


class _Product(torch.autograd.Function):
    """x Wᵀ, with W kept packed for the way back as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed = packed
        return torch.cat([F.linear(x, part.unpack().to(x.dtype)) for _, part in packed.chunks()], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        back = None
        for first, part in ctx.packed.chunks():
            share = grad[..., first : first + part.shape[0]] @ part.unpack().to(grad.dtype)
            back = share if back is None else back.add_(share)
        assert back is not None
        return back, None


def packable(network: nn.Module) -> set[str]:
    """Names of the weights that quantised opening packs: every Linear but a router, the table of tokens, and
    the experts."""
    names = set()
    for path, module in network.named_modules():
        if (isinstance(module, nn.Linear) and not path.endswith("router")) or path == "embedding.token":
            names.add(f"{path}.weight")
        names.update(
            f"{path}.{name}" for name, value in module.named_parameters(recurse=False) if value.ndim == 3
        )
    return names


def put_packed(network: nn.Module, name: str, packed: Packed) -> None:
    """Replace the layer that holds the weight `name` by its packed form; its bias stays."""
    path, _, leaf = name.rpartition(".")
    module = network.get_submodule(path)
    if leaf == "weight":
        new = PackedLinear(packed, module.bias) if isinstance(module, nn.Linear) else PackedEmbedding(packed)
        parent, _, leaf = path.rpartition(".")
        setattr(network.get_submodule(parent), leaf, new)
    else:
        delattr(module, leaf)
        setattr(module, leaf, PackedStack(packed))


class PlainWeights(Mapping[str, Tensor]):
    """A network's weights under their own names, the packed ones unpacked when asked for."""

    def __init__(self, network: nn.Module) -> None:
        self.plain = {
            name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_PARTS)
        }
        self.packed: dict[str, PackedWeight] = {}
        for path, module in network.named_modules():
            if isinstance(module, PackedWeight):
                self.packed[path if isinstance(module, PackedStack) else f"{path}.weight"] = module

    def __getitem__(self, name: str) -> Tensor:
        return self.packed[name].weight if name in self.packed else self.plain[name]

    def __contains__(self, name: object) -> bool:
        return name in self.plain or name in self.packed

    def __iter__(self) -> Iterator[str]:
        return iter([*self.plain, *self.packed])

    def __len__(self) -> int:
        return len(self.plain) + len(self.packed)


_PARTS = (".codes", ".scales", ".minimums")
