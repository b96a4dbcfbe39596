"""A GGUF file's head, walked with every count and offset checked against the file's size, and its tensors
read one at a time."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.checksums import Checksums
from newleaf.storage.gguf_checksums import check_header

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
# The format's numbers for types of values (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), as
# struct and numpy spell them.
SCALAR_TYPES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING_TYPE, ARRAY_TYPE = 8, 9
# A vocabulary with its merges has under a million and a half entries; a file may claim, and hold, any number.
MAX_ARRAY_VALUES = 4 * 2**20
# Values dequantised at once: numpy's steps in between take several times their size.
DEQUANTIZED_AT_ONCE = 4 * 2**20


class TokenType(IntEnum):
    """What a token of the vocabulary is for, as the format numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def import_gguf() -> Any:
    """The gguf package. Raises InputError when it is not installed."""
    try:
        import gguf
    except ImportError:
        raise InputError("GGUF files need the gguf package: pip install 'newleaf[gguf]'") from None
    return gguf


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: `process_logits` as PyTorch counts, rows first; `kind` is the format's number for
    the type of its blocks."""

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GGUFFile(Mapping[str, Tensor]):
    """An open GGUF: its metadata, and its tensors by name, each dequantised from the disk when asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    dtype: torch.dtype
    checksums: Checksums = field(default_factory=Checksums)

    def __getitem__(self, name: str) -> Tensor:
        gguf = import_gguf()
        stored, rows = self.tensors[name], self.block_rows(name)
        kind = gguf.GGMLQuantizationType(stored.kind)
        tensor = torch.empty(stored.shape, dtype=self.dtype)
        out, step = tensor.view(len(rows), -1), max(1, DEQUANTIZED_AT_ONCE // stored.shape[-1])
        for start in range(0, len(rows), step):
            try:
                values = gguf.quants.dequantize(np.array(rows[start : start + step]), kind)
            except NotImplementedError:
                what = f"tensor {name} is of type {kind.name}, which the gguf package does not dequantise"
                raise InputError(f"{self.path}: {what}") from None
            out[start : start + step] = torch.from_numpy(values)
        return tensor

    def block_rows(self, name: str) -> np.ndarray[Any, Any]:
        """The bytes of a tensor as they lie in the file, a row of blocks for each row of weights; mapped, and
        read where they have a checksum, once. Raises InputError when they have another."""
        stored = self.tensors[name]
        data = np.memmap(self.path, np.uint8, "r", stored.start, (stored.size,))
        try:
            self.checksums.check_bytes(name, import_gguf().GGMLQuantizationType(stored.kind).name, data)
        except ValueError as error:
            raise InputError(f"{self.path}: damaged, {error}; get the file anew, or convert again") from None
        return data.reshape(math.prod(stored.shape[:-1]), -1)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors  # Mapping's own would dequantise it to see

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def require(self, key: str, kind: type) -> Any:
        """A metadata value of this type. Raises InputError where it is missing or of another."""
        value = self.metadata.get(key)
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            what = "missing" if value is None else f"of another type than {kind.__name__}"
            raise InputError(f"{self.path}: metadata {key} is {what}")
        return value

    def require_strings(self, key: str) -> list[str]:
        """A metadata value that is a list of strings. Raises InputError where it is missing or something
        else."""
        values: list[str] = self.require(key, list)
        if not all(isinstance(value, str) for value in values):
            raise InputError(f"{self.path}: metadata {key} is not a list of strings")
        return values


def open_gguf(path: Path, dtype: torch.dtype = torch.float32) -> GGUFFile:
    """Read the head of a GGUF file; tensors come as `dtype`. Raises InputError, in one line, when the file is
    not what it says."""
    gguf = import_gguf()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    size = path.stat().st_size
    if size < 24:
        raise InputError(f"{path}: not a GGUF file, it has only {size} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head = _HeaderReader(data, size, path)
        metadata, tensors = head.read(gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES)
        try:
            check_header(metadata, data, head.at, size)
        except ValueError as error:
            raise InputError(f"{path}: damaged, {error}; else get the file anew, or convert again") from None
    return GGUFFile(path, metadata, tensors, dtype, Checksums(metadata))


class _HeaderReader:
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
