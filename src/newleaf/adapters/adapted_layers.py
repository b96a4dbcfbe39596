"""Layers with a low-rank update beside frozen weights: y = W x + b + s · B (A x), and DoRA's with the length
of each row learnt apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from newleaf.model.cpu.fused_projections import LinearReplacement, are_fusable, stacked, stacked_bias
from newleaf.quant.packed import Packed
from newleaf.quant.packed_layers import PackedLinear

Base = nn.Linear | PackedLinear


class AdaptedLinear(LinearReplacement):
    """x [..., C] → [..., R] through a frozen layer and its update: `a` [r, C], `b` [R, r], DoRA's `magnitude`
    [R].

    Layers that share one `a`, as q, k and v do where Hugging Face stores them as one, hold the same
    Parameter.
    """

    def __init__(
        self,
        base: Base,
        a: nn.Parameter,
        b: nn.Parameter,
        scale: float,
        dropout: float = 0.0,
        magnitude: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.base, self.a, self.b, self.magnitude = base, a, b, magnitude
        self.scale, self.dropout = scale, dropout
        self.squares: Tensor | None = None  # of the base's rows, once they are needed

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """What this layer multiplies by, all in one matrix [R, C]; gradients flow to the update."""
        update = self.scale * self.b @ self.a
        whole = self.base.weight.to(update.dtype) + update
        return whole if self.magnitude is None else self.gain().to(whole.dtype).unsqueeze(1) * whole

    def gain(self) -> Tensor:
        """DoRA's factor for each row, fp32 [R]: its magnitude by its length, which takes no part in the
        gradient (section 4.3)."""
        assert self.magnitude is not None
        return self.magnitude.float() / self.lengths()

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """‖W + s B A‖ of each row, fp32 [R], without making the matrix: the squares of W's rows are kept."""
        if self.squares is None:
            self.squares = _squares(self.base)
        a, b = self.a.detach(), self.b.detach().float() * self.scale
        cross = (_product([self.base], a).float().T * b).sum(1)  # of A Wᵀ [r, R] with B
        own = ((b @ (a.float() @ a.float().T)) * b).sum(1)
        return (self.squares.to(b.device) + 2 * cross + own).clamp(min=1e-30).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        return self.fused_projection(x, (self,))

    def fused_projection(self, x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
        adapted = [layer for layer in layers if isinstance(layer, AdaptedLinear)]
        bases = [layer.base if isinstance(layer, AdaptedLinear) else layer for layer in layers]
        assert are_fusable(*layers)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if any(layer.training and layer.dropout for layer in adapted) or any(
            weight.requires_grad for weight in _weights(bases)
        ):
            return torch.cat([_apart(layer, x) for layer in layers], dim=-1)
        a, b = _side_by_side(layers, x)
        if not any(layer.magnitude is not None for layer in adapted):
            return _Update.apply(x, a, b, _bias(bases, x), bases)  # type: ignore[no-any-return, no-untyped-call]
        plain: Tensor = _Update.apply(x, a, b, None, bases)  # type: ignore[no-untyped-call]
        out = plain * torch.cat([_gain(layer, x.device) for layer in layers]).to(x)
        bias = _bias(bases, x)
        return out if bias is None else out + bias


class AdaptedStack(nn.Module):
    """A mixture's matrices [E, R, C] with an update for each; `stack[e]` is one of them. `a` [E, r, C], `b`
    [E, R, r]."""

    def __init__(
        self, base: nn.Parameter | nn.Module, a: nn.Parameter, b: nn.Parameter, scale: float
    ) -> None:
        super().__init__()
        self.base, self.a, self.b, self.scale = base, a, b, scale

    def __getitem__(self, number: int) -> Tensor:
        update = self.scale * self.b[number] @ self.a[number]
        base: Tensor = self.base[number]  # type: ignore[index]
        return base.to(update.dtype) + update


class _Update(torch.autograd.Function):
    """W x + bias + B (A x) for frozen W: the update is added where the product stands, forwards and
    backwards."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, bases: Sequence[nn.Module]
    ) -> Tensor:
        tokens = x.flatten(0, -2)
        low = tokens @ a.T
        out = _product(bases, tokens, bias).addmm_(low, b.T)
        ctx.save_for_backward(tokens, a, b, low)
        ctx.bases = bases
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tokens, a, b, low = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        low_grad = grad @ b
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = _back(ctx.bases, grad).addmm_(low_grad, a).view(*grads[0].shape[:-1], -1)
        return x_grad, low_grad.T @ tokens, grad.T @ low, None, None


def _apart(layer: nn.Module, x: Tensor) -> Tensor:
    """One layer's output, step by step: with dropout, or over weights that are trained too."""
    if not isinstance(layer, AdaptedLinear):
        out: Tensor = layer(x)
        return out
    base, read = layer.base, F.dropout(x, layer.dropout, layer.training)
    update = F.linear(F.linear(read, layer.a.to(x.dtype)), layer.b.to(x.dtype)) * layer.scale
    if layer.magnitude is None:
        out = base(x) + update
        return out
    gain = layer.gain().to(x.dtype)
    # The change of length acts on what dropout left, as PEFT has it; without dropout this is gain · (W + s B
    # A) x + bias.
    out = base(x) + (gain - 1) * _without_bias(base, read) + gain * update
    return out


def _without_bias(base: Base, x: Tensor) -> Tensor:
    if isinstance(base, nn.Linear):
        return F.linear(x, base.weight)
    out: Tensor = PackedLinear.forward(base, x)
    return out if base.bias is None else out - base.bias.to(out.dtype)


def _gain(layer: nn.Module, device: torch.device) -> Tensor:
    if isinstance(layer, AdaptedLinear) and layer.magnitude is not None:
        return layer.gain()
    return torch.ones(rows_of(layer), device=device)


def _side_by_side(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """The different A of layers above each other [sum of ranks, C], and their B, scaled, as one matrix [sum
    of rows, sum of ranks]."""
    lows: list[nn.Parameter] = []
    for layer in layers:
        if isinstance(layer, AdaptedLinear) and not any(layer.a is low for low in lows):
            lows.append(layer.a)
    starts = [sum(len(low) for low in lows[:number]) for number in range(len(lows) + 1)]
    blocks = []
    for layer in layers:
        if isinstance(layer, AdaptedLinear):
            number = next(number for number, low in enumerate(lows) if low is layer.a)
            blocks.append(F.pad(layer.b * layer.scale, (starts[number], starts[-1] - starts[number + 1])))
        else:
            blocks.append(torch.zeros(rows_of(layer), starts[-1], device=x.device, dtype=lows[0].dtype))
    return _joined(lows).to(x.dtype), _joined(blocks).to(x.dtype)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def rows_of(layer: nn.Module) -> int:
    """Outputs of a layer."""
    if isinstance(layer, PackedLinear):
        return layer.shape[0]
    if isinstance(layer, AdaptedLinear):
        return rows_of(layer.base)
    assert isinstance(layer, nn.Linear)
    return layer.out_features


def _weights(bases: Sequence[nn.Module]) -> list[Tensor]:
    return [parameter for base in bases for parameter in base.parameters()]


def _bias(bases: Sequence[nn.Module], x: Tensor) -> Tensor | None:
    bias = stacked_bias(bases)
    return bias if bias is None else bias.to(x.dtype)


def _plain(bases: Sequence[nn.Module]) -> Tensor | None:
    """The weights of plain layers above each other, or None where one is packed."""
    if any(isinstance(base, PackedLinear) for base in bases):
        return None
    return stacked([base.weight.detach() for base in bases if isinstance(base, nn.Linear)])


def _product(bases: Sequence[nn.Module], tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """tokens [N, C] through all bases [N, sum of rows], into memory of its own."""
    weight = _plain(bases)
    if weight is not None:
        weight = weight.to(tokens.dtype)
        return tokens @ weight.T if bias is None else torch.addmm(bias, tokens, weight.T)
    out = torch.empty(
        len(tokens), sum(rows_of(base) for base in bases), dtype=tokens.dtype, device=tokens.device
    )
    start = 0
    for base in bases:
        for weight in _parts(base, tokens.dtype):
            torch.mm(tokens, weight.T, out=out[:, start : start + len(weight)])
            start += len(weight)
    return out if bias is None else out.add_(bias)


def _back(bases: Sequence[nn.Module], grad: Tensor) -> Tensor:
    """grad [N, sum of rows] back through all bases [N, C]."""
    weight = _plain(bases)
    if weight is not None:
        return grad @ weight.to(grad.dtype)
    out, start = None, 0
    for base in bases:
        for weight in _parts(base, grad.dtype):
            some = grad[:, start : start + len(weight)]
            out = some @ weight if out is None else out.addmm_(some, weight)
            start += len(weight)
    assert out is not None
    return out


def _parts(base: nn.Module, dtype: torch.dtype) -> Iterator[Tensor]:
    """A layer's weights a few rows at a time."""
    if isinstance(base, PackedLinear):
        return (part.unpack().to(dtype) for _, part in base.packed.chunks())
    assert isinstance(base, nn.Linear)
    return iter([base.weight.detach().to(dtype)])


@torch.no_grad()
def _squares(base: Base) -> Tensor:
    """The squared length of each row, fp32 [R]."""
    parts = _parts(base, torch.float32)
    return torch.cat([part.square().sum(1) for part in parts])


@torch.no_grad()
def row_lengths(weight: Tensor | Packed) -> Tensor:
    """‖W‖ of each row, fp32: where DoRA's magnitudes start."""
    if isinstance(weight, Packed):
        return torch.cat([torch.linalg.vector_norm(part.unpack(), dim=1) for _, part in weight.chunks()])
    lengths: Tensor = torch.linalg.vector_norm(weight.detach().float(), dim=1)
    return lengths
