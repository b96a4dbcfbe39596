"""MXFP4: blocks of 32 four-bit floats that share a power of two (Open Compute Project, Microscaling Formats 1.0); gpt-oss's experts."""

from __future__ import annotations

import torch
from torch import Tensor

# Sign, two bits of exponent, one of mantissa.
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
BIAS = 127  # of the shared exponents


def dequantize(blocks: Tensor, scales: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """uint8 blocks [..., G, 16], two values a byte with the low half first, and uint8 scales [..., G] → [..., 32 · G].

    Every MXFP4 value is exact in bf16 and in fp32.
    """
    if blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
        raise ValueError(f"MXFP4 blocks {tuple(blocks.shape)} and scales {tuple(scales.shape)} do not belong together")
    table = torch.tensor(VALUES, dtype=dtype, device=blocks.device)
    pairs = torch.stack((table[(blocks & 15).int()], table[(blocks >> 4).int()]), dim=-1)
    exponents = (scales.int() - BIAS)[..., None, None]
    return torch.ldexp(pairs, exponents).to(dtype).flatten(-3)
