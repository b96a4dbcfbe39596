"""Checksums: CRC-32 (zlib's) of a file's bytes, and of each tensor of a safetensors or GGUF file, kept in the
file's own metadata."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# of the metadata: a JSON object, tensor name → "float32:89abcdef", "Q8_0:89abcdef"
CHECKSUMS_KEY = "newleaf.crc32"
BLOCK_BYTES = 8 * 2**20  # bytes of a file that are read at a time


def file_crc32(path: Path) -> str:
    """Eight hexadecimal digits, by reading the file once in little memory."""
    found = 0
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(BLOCK_BYTES))
        while count := file.readinto(block):
            found = zlib.crc32(block[:count], found)
    return f"{found:08x}"


def tensor_checksum(tensor: Tensor) -> str:
    """The number format and the CRC-32 of a tensor's bytes, as they lie in a file: `float32:89abcdef`."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if not tensor.numel():
        return f"{kind}:00000000"
    return bytes_checksum(kind, tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def bytes_checksum(kind: str, data: NDArray[Any]) -> str:
    """The same of the bytes [N] of a tensor in the number format `kind`."""
    return f"{kind}:{zlib.crc32(np.ascontiguousarray(data).view(np.uint8).data):08x}"


def checksum_metadata(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """What a safetensors file's metadata says of its tensors' bytes."""
    return {CHECKSUMS_KEY: checksums_json({name: tensor_checksum(tensors[name]) for name in sorted(tensors)})}


def checksums_json(checksums: Mapping[str, str]) -> str:
    """The value of KEY."""
    return json.dumps(dict(checksums), separators=(",", ":"))


class Checksums:
    """What a file's metadata says of its tensors. A file of others says nothing, and `check` finds nothing
    wrong with it."""

    def __init__(self, metadata: Mapping[str, Any] | None = None) -> None:
        self.expected: dict[str, str] = {}
        self.readable = True
        if metadata and CHECKSUMS_KEY in metadata:
            try:
                found = json.loads(metadata[CHECKSUMS_KEY])
                self.expected = {str(name): str(value) for name, value in found.items()}
            except (ValueError, AttributeError, RecursionError):
                self.readable = False

    def check(self, name: str, tensor: Tensor) -> None:
        """Raises ValueError when these are not the bytes that were written; each tensor is looked at once."""
        self._compare(name, str(tensor.dtype).removeprefix("torch."), lambda: tensor_checksum(tensor))

    def check_bytes(self, name: str, kind: str, data: NDArray[Any]) -> None:
        """`check`, of the bytes [N] of a tensor in the number format `kind`."""
        self._compare(name, kind, lambda: bytes_checksum(kind, data))

    def _compare(self, name: str, kind: str, found: Callable[[], str]) -> None:
        """A tensor of another number format was converted by some other program, which copied the metadata of
        before."""
        if not self.readable:
            raise ValueError("its table of checksums cannot be read")
        expected = self.expected.pop(name, None)
        if expected is None or expected.partition(":")[0] != kind:
            return
        if found() != expected:
            raise ValueError(f"{name} does not have the checksum that was written with it")
