"""An open GGUF file: its metadata, and its tensors, dequantized one at a time."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.checksums import Checksums
from newleaf.storage.gguf_checksums import check_header
from newleaf.storage.gguf_dequantize import dequantize
from newleaf.storage.gguf_header import HeaderReader, TensorInfo
from newleaf.storage.gguf_package import import_gguf


@dataclass(frozen=True)
class GGUFFile(Mapping[str, Tensor]):
    """An open GGUF: its metadata, and its tensors by name, each dequantised from the disk when asked for."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    dtype: torch.dtype
    checksums: Checksums = field(default_factory=Checksums)

    def __getitem__(self, name: str) -> Tensor:
        info, rows = self.tensors[name], self.block_rows(name)
        try:
            return dequantize(rows, info.kind, info.shape, self.dtype)
        except InputError as error:
            raise InputError(f"{self.path}: tensor {name} {error}") from None

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
        head = HeaderReader(data, size, path)
        metadata, tensors = head.read(gguf.GGMLQuantizationType, gguf.GGML_QUANT_SIZES)
        try:
            check_header(metadata, data, head.at, size)
        except ValueError as error:
            raise InputError(f"{path}: damaged, {error}; else get the file anew, or convert again") from None
    return GGUFFile(path, metadata, tensors, dtype, Checksums(metadata))
