"""A program: the tables that a lowered network is, filled in one step at a time, and the memory its vectors
live in."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.kernels.layout import (
    LANES,
    STEP_COLUMNS,
    Barrier,
    Buffer,
    Format,
    Matrix,
    Op,
    Quantize,
    Step,
)
from newleaf.quant.packed import Packed

ALIGN = 64  # bytes: a register and a cache line
GROUP = 64  # columns: buffers are filled up with zeros to whole groups

Array = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class CannotLower(Exception):  # noqa: N818 (a finding, not a fault)
    """Why a network has no program; it runs on `GPT`."""


def bits(value: float) -> int:
    """A number as a table holds it: the bits of its fp32 form."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def padded(vector: Tensor, length: int) -> Tensor:
    """fp32 [..., length]: a vector with zeros after it."""
    out = torch.zeros(*vector.shape[:-1], length)
    out[..., : vector.shape[-1]] = vector.detach()
    return out


@dataclass(frozen=True)
class Program:
    """What `run` needs. `held` keeps alive the tensors whose addresses stand in the tables."""

    steps: Array
    matrices: Array
    buffers: Array
    held: tuple[Tensor, ...]
    logits: Tensor  # fp32 [max_rows, V filled up]: where the program leaves them
    # int64 [max_rows, ...]: in the first column each row's adapter; None where there is none
    adapters: Tensor | None
    max_rows: int
    threads: int


@dataclass
class ProgramWriter:
    """Collects steps, matrices and buffers."""

    threads: int
    max_rows: int
    steps: list[list[int]] = field(default_factory=list)
    matrices: list[list[int]] = field(default_factory=list)
    buffers: list[list[int]] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)
    # (buffer, group) → the buffer of its bytes
    byte_buffers: dict[tuple[int, int], int] = field(default_factory=dict)
    wanted: bool = False  # whether the steps that follow are for the rows whose logits are wanted alone
    fresh: set[tuple[int, int]] = field(default_factory=set)  # those that hold what the buffer holds now

    def step(self, op: Op, barrier: Barrier, columns: Mapping[Any, int]) -> None:
        row = [0] * STEP_COLUMNS
        row[Step.OP], row[Step.BARRIER], row[Step.LOGIT_ROWS_ONLY] = op, barrier, int(self.wanted)
        for column, value in columns.items():
            row[column] = value
        self.steps.append(row)

    def hold(self, tensor: Tensor) -> int:
        """Keep a tensor alive; returns its address."""
        self.held.append(tensor)
        return tensor.data_ptr()

    def vector(self, weights: Tensor | None, length: int | None = None) -> int:
        """Address of a small vector of weights in fp32, filled up with zeros to whole registers; 0 for
        none."""
        if weights is None:
            return 0
        return self.hold(padded(weights, up(length or weights.shape[-1], LANES)))

    def memory(self, n_bytes: int) -> Tensor:
        """Zeroed bytes that begin at a cache line."""
        raw = torch.zeros(n_bytes + ALIGN, dtype=torch.uint8)
        self.held.append(raw)
        start = -raw.data_ptr() % ALIGN
        return raw[start : start + n_bytes]

    def buffer(self, row_bytes: int, private: bool = False) -> int:
        """A new buffer of `max_rows` rows; `private` gives each thread a row of its own, to work in while
        there is one row."""
        stride = up(row_bytes, ALIGN) + ALIGN
        rows = max(self.max_rows, self.threads) if private else self.max_rows
        memory = self.memory(rows * stride)
        return self._add_buffer(memory.data_ptr(), stride, stride if private else 0)

    def _add_buffer(self, address: int, stride: int, thread_stride: int) -> int:
        row = [0] * Buffer.SIZE
        row[Buffer.ADDRESS], row[Buffer.STRIDE], row[Buffer.THREAD_STRIDE] = address, stride, thread_stride
        self.buffers.append(row)
        return len(self.buffers) - 1

    def floats(self, width: int, private: bool = False) -> int:
        """A buffer of fp32 vectors, zeros after them up to a whole group."""
        return self.buffer(4 * up(width, GROUP), private)

    def within(self, buffer: int, start: int) -> int:
        """The same buffer seen from `start` bytes into each row."""
        row = self.buffers[buffer]
        return self._add_buffer(row[Buffer.ADDRESS] + start, row[Buffer.STRIDE], row[Buffer.THREAD_STRIDE])

    def view(self, buffer: int, dtype: torch.dtype) -> Tensor:
        """A buffer's rows [max_rows, numbers]."""
        address, stride = self.buffers[buffer][Buffer.ADDRESS], self.buffers[buffer][Buffer.STRIDE]
        held = next(t for t in self.held if t.data_ptr() <= address < t.data_ptr() + t.nbytes)
        start = address - held.data_ptr()
        return held[start : start + self.max_rows * stride].view(dtype).view(self.max_rows, -1)

    def matrix(self, weight: Tensor | Packed, bias: Tensor | None = None, gain: Tensor | None = None) -> int:
        """A row of the table for a matrix [rows, columns], or a stack of experts' [E, rows, columns]; `gain`
        [adapters, rows]."""
        row = [0] * Matrix.SIZE
        n_rows, n_columns = weight.shape[-2:]
        row[Matrix.ROWS], row[Matrix.FACTOR] = n_rows, bits(1.0)
        if isinstance(weight, Packed):
            row[Matrix.FORMAT] = Format.INT8 if weight.format.bits == 8 else Format.INT4
            row[Matrix.ZERO] = weight.format.zero if weight.minimums is None else 0
            if weight.values is not None:
                row[Matrix.FORMAT], row[Matrix.ZERO] = Format.TABLE4, -min(weight.values)
                table = torch.tensor(
                    [value - min(weight.values) for value in weight.values] * 4, dtype=torch.uint8
                )
                row[Matrix.TABLE] = self.hold(table)
            row[Matrix.CODES], row[Matrix.SCALES] = self.hold(weight.codes), self.hold(weight.scales)
            row[Matrix.MINIMUMS] = self.hold(weight.minimums) if weight.minimums is not None else 0
            row[Matrix.GROUP], row[Matrix.FACTOR] = weight.format.group, bits(weight.factor)
            row[Matrix.COLUMNS] = up(n_columns, weight.format.group)
            row[Matrix.STRIDE] = weight.codes[0].nbytes if weight.codes.ndim == 5 else 0
            row[Matrix.SCALE_STRIDE] = weight.scales[0].nbytes if weight.scales.ndim == 4 else 0
        else:
            kinds = {torch.float32: Format.FP32, torch.bfloat16: Format.BF16}
            if weight.dtype not in kinds:
                raise CannotLower(f"its weights are {str(weight.dtype).removeprefix('torch.')}")
            weight.data = weight.data.contiguous()  # mapped ones may lie column by column
            row[Matrix.FORMAT], row[Matrix.CODES], row[Matrix.COLUMNS] = (
                kinds[weight.dtype],
                self.hold(weight),
                n_columns,
            )
            row[Matrix.STRIDE] = weight[0].nbytes if weight.ndim == 3 else 0
        if bias is not None:
            row[Matrix.BIAS], row[Matrix.BIAS_STRIDE] = self.vector(bias), 4 * up(n_rows, LANES)
        if gain is not None:
            row[Matrix.DORA_SCALE], row[Matrix.DORA_SCALE_STRIDE] = self.vector(gain), 4 * up(n_rows, LANES)
        self.matrices.append(row)
        return len(self.matrices) - 1

    def input_for(self, matrix: int, source: int) -> int:
        """The buffer that a matrix reads for the vector in `source`: itself, or its bytes, which are made
        here where nobody has yet."""
        row = self.matrices[matrix]
        if row[Matrix.FORMAT] < Format.INT8:
            return source
        width, group = row[Matrix.COLUMNS], row[Matrix.GROUP]
        key = source, group
        if key not in self.byte_buffers:
            self.byte_buffers[key] = self.buffer(width + 8 * (width // group), private=True)
        if key not in self.fresh:
            columns = {
                Quantize.INPUT: source,
                Quantize.OUT: self.byte_buffers[key],
                Quantize.WIDTH: width,
                Quantize.GROUP: group,
            }
            self.step(Op.QUANTIZE, Barrier.IF_SHARED, columns)
            self.fresh.add(key)
        return self.byte_buffers[key]

    def changed(self, buffer: int) -> None:
        """The vector in `buffer` is a new one: its bytes are no longer its own."""
        self.fresh = {(source, group) for source, group in self.fresh if source != buffer}

    def finish(self, logits: Tensor, adapters: Tensor | None) -> Program:
        steps, matrices, buffers = (
            np.array(rows, dtype=np.int64) for rows in (self.steps, self.matrices, self.buffers)
        )
        return Program(
            steps, matrices, buffers, tuple(self.held), logits, adapters, self.max_rows, self.threads
        )
