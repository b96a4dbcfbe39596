"""Matrix times vectors, a tile of sixteen outputs at a time: the step that reads the weights.

Its speed is that of memory. 8- and 4-bit matrices lie in tiles of 16 rows (see quant/packed.py), read from
front to back; sixteen rows r0 … r15 are the lanes:

    codes   | r0: c0 … c3   | r1: c0 … c3   | … | r15: c0 … c3   |   64 bytes: one load, and one dot product
            | r0: c4 … c7   | r1: c4 … c7   | … | r15: c4 … c7   |   with inputs c0 … c3 in every lane
    scales  | r0            | r1            | … | r15            |   fp16, once a group of columns

4-bit codes of two such lines share 64 bytes. bf16 and fp32 matrices lie as PyTorch keeps them, row after row.

Inputs of quantized matrices are bytes with a scale for each group (`quantize_int8`); inputs of the others are
fp32. Each function takes one tile and several inputs, so that a tile is read from memory once. The sums of an
input are always added in the same order, so that a row's result does not depend on the other rows.
"""

from __future__ import annotations

from typing import Any

from newleaf.generate.kernels.float_dot import dot_float_weights
from newleaf.generate.kernels.layout import LANES, Format, Matrix
from newleaf.generate.kernels.quantized_dot import (
    dot_int4_weights,
    dot_int8_weights,
    dot_quantized_weights_x4,
)
from newleaf.generate.kernels.weight_prefetch import BATCH
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load, load_bf16


@kernel
def tile_matmul(matrix: Any, first: Any, expert: Any, x: Any, stride: Any, rows: Any, out: Any) -> None:
    """Rows `first` … `first` + 15 of a matrix times `rows` inputs; `out` gets 16 floats for each input.

    Inputs lie `stride` bytes apart.
    """
    codes, columns = matrix[Matrix.CODES] + expert * matrix[Matrix.STRIDE], matrix[Matrix.COLUMNS]
    format, batched = matrix[Matrix.FORMAT], rows - rows % BATCH
    if format >= Format.INT8:
        group = matrix[Matrix.GROUP]
        offset = expert * matrix[Matrix.SCALE_STRIDE] + 2 * first * (columns // group)
        scales, minimums = matrix[Matrix.SCALES] + offset, matrix[Matrix.MINIMUMS]
        if minimums != 0:
            minimums += offset
        if format == Format.INT8:
            codes += first * columns
            for row in range(0, batched, BATCH):
                y, sums = x + stride * row, out + 64 * row
                dot_quantized_weights_x4(
                    codes, scales, minimums, group, columns, matrix, row, rows, y, stride, sums
                )
            for row in range(batched, rows):
                y, sums = x + stride * row, out + 64 * row
                dot_int8_weights(codes, scales, minimums, group, columns, y, sums)
        else:
            codes += first * columns // 2
            for row in range(0, batched, BATCH):
                y, sums = x + stride * row, out + 64 * row
                dot_quantized_weights_x4(
                    codes, scales, minimums, group, columns, matrix, row, rows, y, stride, sums
                )
            for row in range(batched, rows):
                y, sums = x + stride * row, out + 64 * row
                dot_int4_weights(codes, scales, minimums, group, columns, matrix, y, sums)
    else:
        count = min(LANES, matrix[Matrix.ROWS] - first)
        if format == Format.BF16:
            dot_float_weights(load_bf16, 2, codes + 2 * first * columns, count, columns, x, stride, rows, out)
        else:
            dot_float_weights(load, 4, codes + 4 * first * columns, count, columns, x, stride, rows, out)
