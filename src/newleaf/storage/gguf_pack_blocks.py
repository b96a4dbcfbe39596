"""GGUF's blocks of 32 weights as newleaf's packed codes: the same numbers in another order, so that nothing
is lost and little is held."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from newleaf.quant.mxfp4 import pack
from newleaf.quant.packed import Format, Packed, pack_rows

BLOCK_SIZE = 32
# bytes of a block's 4-bit codes: byte j holds weight j in its low half, weight j + 16 in its high half
NIBBLE_BYTES = 16

# By the format's number for the type (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): bytes
# before the codes, and bits.
Q4_0, Q4_1, Q8_0, MXFP4 = 2, 3, 8, 39
SCALE_BYTES = {Q4_0: 2, Q4_1: 4, Q8_0: 2, MXFP4: 1}
CODE_BITS = {Q4_0: 4, Q4_1: 4, Q8_0: 8, MXFP4: 4}


def pack_blocks(data: NDArray[np.uint8], kind: int, rows: Tensor, shape: tuple[int, ...]) -> Packed | None:
    """A tensor of `shape` made of the rows with these numbers [...] of a file's data [rows, bytes],
    of a type in BITS.

    None where its scales do not fit the packed form (MXFP4's may be too far apart).
    """
    width = SCALE_BYTES[kind] + (BLOCK_SIZE if CODE_BITS[kind] == 8 else NIBBLE_BYTES)
    # [N, groups, width]
    blocks = torch.from_numpy(np.array(data).reshape(len(data), -1, width))[rows.flatten()]
    scale_bytes, codes = blocks[..., : SCALE_BYTES[kind]], blocks[..., SCALE_BYTES[kind] :]
    if kind == MXFP4:
        # One exponent a block, and pairs 16 apart where the standard's are neighbours.
        unpacked = _unpack_nibbles(codes)
        adjacent = unpacked[..., 0::2] | (unpacked[..., 1::2] << 4)
        numbers = torch.arange(blocks.shape[0]).view(rows.shape)
        return pack(adjacent, scale_bytes.squeeze(-1), numbers, shape)
    # signed bytes counted from −128
    unpacked = (codes ^ 128) if CODE_BITS[kind] == 8 else _unpack_nibbles(codes)
    numbers = scale_bytes.contiguous().view(torch.float16)  # [N, groups, 1 or 2]
    scales = numbers[..., 0].reshape(*rows.shape, -1)
    minimums = numbers[..., 1].reshape(*rows.shape, -1) if kind == Q4_1 else None
    return pack_rows(unpacked.reshape(*rows.shape, -1), scales, Format(CODE_BITS[kind], BLOCK_SIZE), minimums)


def _unpack_nibbles(codes: Tensor) -> Tensor:
    """Codes [..., 16] of two halves → [..., 32], in the order of the weights."""
    return torch.cat((codes & 15, codes >> 4), dim=-1)
