"""Matrices of 8- or 4-bit codes with a scale for each group of columns, laid out the way the decoding kernels
read them.

    w[r, c] = factor · scale[g, r] · (code[r, c] − zero),   g = c // group

Formats whose groups have a minimum count their codes from it: factor · (scale[g, r] · code[r, c] + minimum[g,
r]).

Rows come in tiles of 16, one for each lane of a vector register, so that no lane ever has to be summed with
another:

    codes, 8 bits       [tiles, columns/4, 16, 4]    one byte a code
    codes, 4 bits       [tiles, columns/8, 16, 4]    byte j of a row's four holds column j in its low half,
column j + 4 in its high half
    scales, minimums    [tiles, columns/group, 16]   fp16; most formats have no minimums

Rows are filled up to whole tiles and columns to whole groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 16
CHUNK = 1 << 20  # weights unpacked at once: what stays in cache


@dataclass(frozen=True)
class Format:
    """A number format: `bits` a code (8 or 4), `group` columns to a scale."""

    bits: int
    group: int

    @property
    def zero(self) -> int:
        """The code that stands for 0, so that codes need no sign."""
        return 1 << (self.bits - 1)


FORMATS = {"int8": Format(8, 64), "int4": Format(4, 32)}


@dataclass(frozen=True)
class Packed:
    """A matrix of `shape` [rows, columns], or a stack [E, rows, columns] whose tensors begin with E."""

    codes: Tensor
    scales: Tensor
    shape: tuple[int, ...]
    format: Format
    factor: float = 1.0  # a power of two that brings the scales into fp16's range
    minimums: Tensor | None = None
    # what each of 16 codes stands for, where that is not code − zero (MXFP4)
    values: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        return (
            self.codes.nbytes
            + self.scales.nbytes
            + (self.minimums.nbytes if self.minimums is not None else 0)
        )

    def matrix(self, number: int) -> Packed:
        """One matrix of a stack."""
        return self._part(number, self.shape[1:])

    def chunks(self) -> Iterator[tuple[int, Packed]]:
        """A matrix in pieces of whole tiles that stay in cache when unpacked, each with the number of its
        first row."""
        rows, columns = self.shape
        step = max(1, CHUNK // (LANES * columns))
        for tile in range(0, self.codes.shape[0], step):
            first = tile * LANES
            yield first, self._part(slice(tile, tile + step), (min(step * LANES, rows - first), columns))

    def unpack(self) -> Tensor:
        """The weights, fp32 [rows, columns] or [E, rows, columns]."""
        rows, columns = self.shape[-2:]
        plain = self._plain(self.codes, self.scales, self.minimums)  # [..., tiles, groups, 16, group]
        return plain.transpose(-3, -2).reshape(*self.shape[:-2], -1, plain.shape[-3] * plain.shape[-1])[
            ..., :rows, :columns
        ]

    def take(self, rows: Tensor) -> Tensor:
        """Rows of a matrix by their numbers [...] → fp32 [..., columns]."""
        tile, lane = rows // LANES, rows % LANES
        minimums = self.minimums[tile, :, lane, None] if self.minimums is not None else None
        # [..., groups, 1, group]
        plain = self._plain(self.codes[tile, :, lane, None], self.scales[tile, :, lane, None], minimums)
        return plain.flatten(-3)[..., : self.shape[-1]]

    def _part(self, at: int | slice, shape: tuple[int, ...]) -> Packed:
        minimums = self.minimums[at] if self.minimums is not None else None
        return replace(self, codes=self.codes[at], scales=self.scales[at], minimums=minimums, shape=shape)

    def _plain(self, codes: Tensor, scales: Tensor, minimums: Tensor | None) -> Tensor:
        """Codes [..., columns/4 or /8, L, 4] of L rows as weights [..., groups, L, group]."""
        if self.format.bits == 4:
            codes = torch.stack((codes & 15, codes >> 4), dim=-3).flatten(-4, -3)  # [..., columns/4, L, 4]
        codes = torch.unflatten(codes, -3, (scales.shape[-2], -1)).transpose(-3, -2).flatten(-2)
        if self.values is None:
            plain = codes.to(torch.float32).sub_(self.format.zero if minimums is None else 0)
        else:
            plain = torch.tensor(self.values, dtype=torch.float32, device=codes.device)[codes.int()]
        plain.mul_((scales.float() * self.factor).unsqueeze(-1))
        if minimums is not None:
            plain.add_((minimums.float() * self.factor).unsqueeze(-1))
        return plain


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [..., rows, columns], of whole tiles and groups, in the kernels' order: see the top of this
    file."""
    # [..., tiles, columns/4, 16, 4]
    quads = codes.reshape(*codes.shape[:-2], -1, LANES, codes.shape[-1] // 4, 4).transpose(-3, -2)
    if bits == 8:
        return quads.contiguous()
    low, high = torch.unflatten(quads, -3, (-1, 2)).unbind(-3)
    # as kernels read it; the operators keep the order that `transpose` gave
    return (low | (high << 4)).contiguous()


def pack_scales(scales: Tensor) -> Tensor:
    """Scales or minimums [..., rows, groups] in the kernels' order."""
    return torch.unflatten(scales, -2, (-1, LANES)).mT.contiguous()


def pack_rows(
    codes: Tensor, scales: Tensor, format: Format, minimums: Tensor | None = None, **about: Any
) -> Packed:
    """Codes uint8 [..., rows, columns] with fp16 scales [..., rows, columns/group], in the kernels' order;
    and the rest of `Packed`."""
    shape = tuple(codes.shape)
    rows = -shape[-2] % LANES
    if rows:
        codes, scales = F.pad(codes, (0, 0, 0, rows), value=format.zero), F.pad(scales, (0, 0, 0, rows))
        minimums = F.pad(minimums, (0, 0, 0, rows)) if minimums is not None else None
    lows = pack_scales(minimums) if minimums is not None else None
    return Packed(pack_codes(codes, format.bits), pack_scales(scales), shape, format, minimums=lows, **about)
