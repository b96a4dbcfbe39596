"""MXFP4: blocks of 32 four-bit floats that share a power of two (Open Compute Project, Microscaling Formats
1.0); gpt-oss's experts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from newleaf.quant.packed import Format, Packed, pack_rows

# Sign, two bits of exponent, one of mantissa.
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
BIAS = 127  # of the shared exponents
TOP, FP16_LEAST = 10, -24  # exponents of the largest packed scale, and of the least that fp16 has


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """uint8 blocks [..., G, 16], two values a byte with the low half first, and uint8 scales [..., G] → [...,
    32 · G].

    Every MXFP4 value is exact in bf16 and in fp32.
    """
    if blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
        raise ValueError(
            f"MXFP4 blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)} do not belong together"
        )
    table = torch.tensor(VALUES, dtype=dtype, device=blocks.device)
    pairs = torch.stack((table[(blocks & 15).int()], table[(blocks >> 4).int()]), dim=-1)
    exponents = (scales.int() - BIAS)[..., None, None]
    return torch.ldexp(pairs, exponents).to(dtype).flatten(-3)


def pack(blocks: Tensor, scales: Tensor, rows: Tensor, shape: tuple[int, ...]) -> Packed | None:
    """A packed tensor of `shape` from the rows with these numbers [...] of blocks [..., G, 16], without loss.

    None where the blocks are not of that shape, or their scales farther apart than fp16 holds.
    """
    stored = math.prod(blocks.shape[:-2])
    if blocks.shape[-2] * 32 != shape[-1] or blocks.shape[:-1] != scales.shape or stored <= int(rows.max()):
        return None
    blocks, exponents = blocks.flatten(0, -3)[rows], scales.flatten(0, -2)[rows].int()
    largest = int(exponents.max()) if exponents.numel() else BIAS
    lows = exponents - largest + TOP
    if int(lows.min()) < FP16_LEAST:
        return None
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-3)
    factor = 2.0 ** (largest - TOP - BIAS - 1)  # and −1 for the halves among the values
    doubled = tuple(int(2 * value) for value in VALUES)
    return pack_rows(codes, torch.exp2(lows).half(), Format(4, 32), factor=factor, values=doubled)
