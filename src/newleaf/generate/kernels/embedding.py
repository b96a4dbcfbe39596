"""The embedding step: rows of the token table, and of the position table where positions are learned."""

from __future__ import annotations

from typing import Any

import numba as nb

from newleaf.generate.kernels.layout import LANES, Embed, Format, Matrix, State
from newleaf.generate.kernels.state_access import position_of, row_address, token_of
from newleaf.kernels.compiler import kernel
from newleaf.kernels.load_store import load_byte, load_float, load_one_bf16, load_one_fp16, store_float
from newleaf.kernels.simd import float_from_bits


@kernel
def embed(step: Any, matrices: Any, buffers: Any, state: Any, thread: Any) -> None:
    """The embeddings of all rows; threads share the columns."""
    threads = state[State.THREADS]
    matrix, width = matrices[step[Embed.MATRIX]], step[Embed.WIDTH]
    pieces = (width + LANES - 1) // LANES
    first, end = pieces * thread // threads * LANES, min(width, pieces * (thread + 1) // threads * LANES)
    for row in range(state[State.ROWS]):
        token, position = token_of(state, row), position_of(state, row)
        out = row_address(buffers, step[Embed.OUT], row, 0)
        table = step[Embed.POSITIONS]
        for column in range(first, end):
            value = matrix_element(matrix, token, column)
            if table != 0:
                value += load_float(table + 4 * (position * width + column))
            store_float(out + 4 * column, value)


@kernel
def matrix_element(matrix: Any, row: Any, column: Any) -> Any:
    """One number of a matrix, dequantized."""
    format, codes, columns = matrix[Matrix.FORMAT], matrix[Matrix.CODES], matrix[Matrix.COLUMNS]
    if format == Format.FP32:
        return load_float(codes + 4 * (row * columns + column))
    if format == Format.BF16:
        return load_one_bf16(codes + 2 * (row * columns + column))
    tile, lane, group = row // LANES, row % LANES, matrix[Matrix.GROUP]
    at = 2 * ((tile * (columns // group) + column // group) * LANES + lane)
    scale = load_one_fp16(matrix[Matrix.SCALES] + at)
    if format == Format.INT8:
        code = load_byte(codes + ((tile * (columns // 4) + column // 4) * LANES + lane) * 4 + column % 4)
    else:
        pair = load_byte(codes + ((tile * (columns // 8) + column // 8) * LANES + lane) * 4 + column % 4)
        code = (pair >> 4 if column % 8 >= 4 else pair) & 15
        if format == Format.TABLE4:
            code = load_byte(matrix[Matrix.TABLE] + code)
    minimum = load_one_fp16(matrix[Matrix.MINIMUMS] + at) if matrix[Matrix.MINIMUMS] != 0 else nb.float32(0.0)
    return float_from_bits(matrix[Matrix.FACTOR]) * (scale * nb.float32(code - matrix[Matrix.ZERO]) + minimum)
