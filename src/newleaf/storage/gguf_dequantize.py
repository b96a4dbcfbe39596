"""GGUF's blocks to tensors: every block format that the gguf package knows, dequantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.gguf_package import import_gguf

# NumPy's intermediate results take several times the size of the values.
DEQUANTIZED_AT_ONCE = 4 * 2**20


def dequantize(rows: NDArray[Any], kind: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of `shape` from its rows of blocks [rows, bytes]; `kind` is the format's number for the type.

    Raises InputError for a type that the gguf package does not dequantize.
    """
    gguf = import_gguf()
    block_type = gguf.GGMLQuantizationType(kind)
    tensor = torch.empty(shape, dtype=dtype)
    out, step = tensor.view(len(rows), -1), max(1, DEQUANTIZED_AT_ONCE // shape[-1])
    for start in range(0, len(rows), step):
        try:
            values = gguf.quants.dequantize(np.array(rows[start : start + step]), block_type)
        except NotImplementedError:
            raise InputError(
                f"is of type {block_type.name}, which the gguf package does not dequantise"
            ) from None
        out[start : start + step] = torch.from_numpy(values)
    return tensor
