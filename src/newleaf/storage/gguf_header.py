"""The header of a GGUF file: metadata and tensor infos, each count and offset checked against its size."""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from newleaf.errors import InputError

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
# The format's numbers for types of values (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), as
# struct and numpy spell them.
SCALAR_TYPES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING_TYPE, ARRAY_TYPE = 8, 9
# A vocabulary with its merges has under a million and a half entries; a file may claim, and hold, any number.
MAX_ARRAY_VALUES = 4 * 2**20


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `shape` as PyTorch counts, rows first; `kind` is the format's number for
    the type of its blocks."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


class HeaderReader:
    """A cursor over the file's head that never reads, counts or allocates beyond the file."""

    def __init__(self, data: mmap.mmap, size: int, path: Path) -> None:
        self.data, self.size, self.path = data, size, path
        self.at = 0
        self.values_left = MAX_ARRAY_VALUES

    def read(self, kinds: Any, block_sizes: Any) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        if self.read_bytes(4, "its first bytes") != MAGIC:
            raise InputError(f"{self.path}: not a GGUF file")
        version = self.read_scalar("I")
        if version not in VERSIONS:
            raise InputError(
                f"{self.path}: GGUF version {version} is not known, only "
                f"{' and '.join(map(str, VERSIONS))}, little-endian"
            )
        n_tensors, n_values = self.read_scalar("Q"), self.read_scalar("Q")
        # The least a tensor and a value can take: lengths, numbers and types, with names of one letter.
        for count, least, what in ((n_tensors, 33, "tensors"), (n_values, 14, "metadata values")):
            if count * least > self.size:
                raise InputError(
                    f"{self.path}: claims {count:,} {what}, more than fit into its {self.size:,} bytes"
                )
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self.read_string("a metadata key")
            if key in metadata:
                raise InputError(f"{self.path}: metadata {key} stands twice")
            metadata[key] = self.read_value(self.read_scalar("I"), key)
        infos = [self.read_tensor_info() for _ in range(n_tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment % 8 or alignment > 2**20:
            raise InputError(f"{self.path}: general.alignment is {alignment!r}, which is no multiple of 8")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise InputError(f"{self.path}: tensor {name} stands twice")
            tensors[name] = self.locate_tensor(name, shape, kind, start + offset, kinds, block_sizes)
        return metadata, tensors

    def read_tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.read_string("a tensor's name")
        n_dims = self.read_scalar("I")
        if not 1 <= n_dims <= 4:
            raise InputError(f"{self.path}: tensor {name} claims {n_dims:,} dimensions")
        shape = tuple(self.read_scalar("Q") for _ in range(n_dims))[::-1]
        return name, shape, self.read_scalar("I"), self.read_scalar("Q")

    def locate_tensor(
        self, name: str, shape: tuple[int, ...], kind: int, start: int, kinds: Any, block_sizes: Any
    ) -> TensorInfo:
        if kind not in set(kinds):
            raise InputError(
                f"{self.path}: tensor {name} is of type {kind}, which the gguf package does not know"
            )
        per_block, block_bytes = block_sizes[kinds(kind)]
        if 0 in shape or shape[-1] % per_block:
            raise InputError(
                f"{self.path}: tensor {name} has shape {shape}, which blocks of {per_block} cannot fill"
            )
        size = math.prod(shape) // per_block * block_bytes
        if start + size > self.size:
            raise InputError(
                f"{self.path}: tensor {name} would end at byte {start + size:,} of {self.size:,}; the file "
                f"is truncated or its offsets lie"
            )
        return TensorInfo(shape, kind, start, size)

    def read_value(self, kind: int, key: str) -> Any:
        if kind in SCALAR_TYPES:
            return self.read_scalar(SCALAR_TYPES[kind])
        if kind == STRING_TYPE:
            return self.read_string(key)
        if kind != ARRAY_TYPE:
            raise InputError(
                f"{self.path}: metadata {key} has a value of type {kind}, which GGUF does not have"
            )
        inner, count = self.read_scalar("I"), self.read_scalar("Q")
        self.values_left -= count
        if self.values_left < 0:
            raise InputError(
                f"{self.path}: metadata {key} claims {count:,} values; newleaf reads at most "
                f"{MAX_ARRAY_VALUES:,} in a file"
            )
        if inner == STRING_TYPE:
            return [self.read_string(key) for _ in range(count)]
        if inner not in SCALAR_TYPES:
            raise InputError(
                f"{self.path}: metadata {key} is an array of type {inner}, which newleaf does not read"
            )
        numbers = np.dtype(SCALAR_TYPES[inner]).newbyteorder("<")
        return np.frombuffer(self.read_bytes(count * numbers.itemsize, key), numbers).tolist()

    def read_scalar(self, code: str) -> Any:
        width = struct.calcsize("<" + code)
        value = struct.unpack("<" + code, self.read_bytes(width, "its head"))[0]
        # An fp32 such as 1e-5 is what the writer had as a decimal, not the double nearest to the fp32.
        return float(str(np.float32(value))) if code == "f" else value

    def read_string(self, what: str) -> str:
        length = self.read_scalar("Q")
        try:
            return self.read_bytes(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {what} is not UTF-8") from None

    def read_bytes(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise InputError(
                f"{self.path}: {what} would take {count:,} bytes of {self.size - self.at:,} left; the file "
                f"is truncated or damaged"
            )
        self.at += count
        return self.data[self.at - count : self.at]
