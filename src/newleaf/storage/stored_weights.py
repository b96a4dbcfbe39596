"""The weights of a model folder, read one tensor at a time: safetensors whole or in shards, older .bin files,
MXFP4 experts unpacked."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from newleaf.errors import InputError
from newleaf.quant.mxfp4 import dequantize
from newleaf.storage.checksums import Checksums
from newleaf.storage.weight_files import weight_files
from newleaf.untrusted import check_regular, native_errors_as_input_errors

BLOCKS_SUFFIX, SCALES_SUFFIX = "_blocks", "_scales"
SUPPORTED_DTYPES = {torch.float32, torch.bfloat16, torch.float16, torch.float64}
DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}  # bytes
# safetensors' names and PyTorch's
SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class StoredWeights(Mapping[str, Tensor]):
    """Names to tensors of a folder, each read when it is asked for, so that opening takes the memory of the
    result and one tensor.

    Raises InputError, naming the file, for what is missing, damaged, outside the folder or not plain weights.
    Tensors that newleaf wrote have checksums in their file, which are compared when a tensor is read first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard: tuple[Path, Any] | None = None
        # name → the file it is in, or all that an old one held
        self.locations: dict[str, Path | dict[str, Tensor]] = {}
        self.checksums: dict[Path, Checksums] = {}
        for file in weight_files(folder):
            if file.suffix == ".bin":
                opened = _open_bin(file)
                self.locations |= dict.fromkeys(opened, opened)
            else:
                with _open_safetensors(file) as opened_file:
                    self.locations |= dict.fromkeys(opened_file.keys(), file)
                    self.checksums[file] = Checksums(opened_file.metadata())
        packed = [
            name
            for name in self.locations
            if name.endswith(BLOCKS_SUFFIX)
            and name.removesuffix(BLOCKS_SUFFIX) + SCALES_SUFFIX in self.locations
        ]
        self.packed = {name.removesuffix(BLOCKS_SUFFIX) for name in packed}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.packed:
            # Stored with rows first; stock transformers' own tensor has them last.
            return dequantize(*self.blocks_and_scales(name)).mT
        found = self._stored(name)
        if found.dtype not in SUPPORTED_DTYPES:
            kind = str(found.dtype).removeprefix("torch.")
            raise InputError(
                f"{self._file(name)}: {name} is of type {kind}, and newleaf computes with fp32, bf16, fp16 "
                f"and fp64"
            )
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that is not in `packed`, from its file's head. Raises KeyError for one that
        is not there."""
        holder = self.locations[name]
        return tuple(
            holder[name].shape
            if isinstance(holder, dict)
            else self._open_shard(holder).get_slice(name).get_shape()
        )

    def blocks_and_scales(self, name: str) -> tuple[Tensor, Tensor]:
        """Blocks and scales of a tensor in `packed`, as they are stored."""
        return self._stored(name + BLOCKS_SUFFIX), self._stored(name + SCALES_SUFFIX)

    def _stored(self, name: str) -> Tensor:
        holder = self.locations[name]
        if isinstance(holder, dict):
            return holder[name]
        with native_errors_as_input_errors(f"{holder}: {name} cannot be read"):
            found: Tensor = self._open_shard(holder).get_tensor(name)
        try:
            self.checksums[holder].check(name, found)
        except ValueError as error:
            raise InputError(
                f"{holder}: damaged, {error}; get the file anew, or train or convert again"
            ) from None
        return found

    def _file(self, name: str) -> Path:
        holder = self.locations[name]
        return holder if isinstance(holder, Path) else self.folder

    def _open_shard(self, file: Path) -> Any:
        # One shard open at a time: a mapping keeps every page in memory that was read through it.
        if self.shard is None or self.shard[0] != file:
            self.shard = file, _open_safetensors(file)
        return self.shard[1]

    def sizes(self) -> Iterator[tuple[str, str, int]]:
        """Name, type and bytes of each stored tensor, by the heads of the files."""
        for name, holder in self.locations.items():
            if isinstance(holder, dict):
                yield name, str(holder[name].dtype).removeprefix("torch."), holder[name].nbytes
            else:
                stored = self._open_shard(holder).get_slice(name)
                kind = SAFETENSORS_DTYPES.get(stored.get_dtype(), stored.get_dtype())
                yield name, kind, math.prod(stored.get_shape()) * DTYPE_BYTES.get(kind, 1)

    @property
    def dtype_summary(self) -> str:
        """The type that most of the stored numbers have, as PyTorch names it, and what is packed."""
        counts: dict[str, int] = {}
        for name, holder in self.locations.items():
            if name.endswith((BLOCKS_SUFFIX, SCALES_SUFFIX)) and name.rpartition("_")[0] in self.packed:
                continue
            if isinstance(holder, dict):
                kind, shape = str(holder[name].dtype).removeprefix("torch."), holder[name].shape
            else:
                stored = self._open_shard(holder).get_slice(name)
                kind, shape = (
                    SAFETENSORS_DTYPES.get(stored.get_dtype(), stored.get_dtype()),
                    stored.get_shape(),
                )
            counts[kind] = counts.get(kind, 0) + math.prod(shape)
        most = max(counts, key=lambda kind: counts[kind], default="nothing")
        return most + (", experts in MXFP4" if self.packed else "")

    def __iter__(self) -> Iterator[str]:
        hidden = {name + end for name in self.packed for end in (BLOCKS_SUFFIX, SCALES_SUFFIX)}
        return iter([*(name for name in self.locations if name not in hidden), *self.packed])

    def __contains__(self, name: object) -> bool:
        # the inherited one would read the tensor to find out
        return name in self.locations or name in self.packed

    def __len__(self) -> int:
        return len(self.locations) - len(self.packed)


def _open_safetensors(file: Path) -> Any:
    check_regular(file)
    with native_errors_as_input_errors(f"{file}: damaged or not safetensors"):
        return safe_open(file, framework="pt")


def _open_bin(file: Path) -> dict[str, Tensor]:
    """A .bin file's tensors. Nothing in it runs: anything but plain tensors and containers is refused."""
    check_regular(file)
    with native_errors_as_input_errors(f"{file}: damaged or not a file of PyTorch weights"):
        try:
            # What torch wrote before 2020 is no zip file, and cannot be mapped.
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        except pickle.UnpicklingError:
            raise InputError(
                f"{file}: refused, this pickle holds more than weights and could run code"
            ) from None
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(found[name], Tensor) for name in found
    ):
        raise InputError(f"{file}: holds something else than named weights")
    size = file.stat().st_size
    for name, tensor in found.items():
        # A view may claim more numbers than there are: stride 0 repeats one without end.
        if (
            tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.is_meta
            or tensor.nbytes > size
        ):
            raise InputError(
                f"{file}: {name} is sparse, quantised or a view of less than it claims, and no plain tensor"
            )
    return found
