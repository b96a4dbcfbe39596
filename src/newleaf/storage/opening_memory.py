"""What opening a model takes in memory, and the first request after it: from the heads of its files, by a
formula that was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from newleaf.model import GPTConfig
from newleaf.model.count import count_parameters
from newleaf.quant.packed import FORMATS, Format

UNQUANTIZED_BYTES = {"fp32": 4, "bf16": 2}  # bytes a weight
SCALE_BYTES = 2  # bytes of a group's scale
# Resident bytes, measured on Linux with `python -m benchmarks.load` (docs/lab-notes.md): Python with PyTorch
# and
# newleaf; a token of the vocabulary, in the tokenizer and in tables; modules, and what the allocator keeps of
# what
# was freed; the compiled kernels and their library.
PYTHON_BYTES, BYTES_PER_TOKEN, MODULE_BYTES, KERNEL_BYTES = 232e6, 650, 25e6, 155e6
# weights, about; smaller networks write a first short text with PyTorch
MIN_PARAMETERS_FOR_KERNELS = 5_000_000
# values of a GGUF that are dequantised at once, and bytes of a value on the way
DEQUANTIZED_AT_ONCE, BYTES_PER_DEQUANTIZED_VALUE = 4 * 2**20, 12


@dataclass(frozen=True)
class StoredMatrix:
    """A tensor of a GGUF file: how many numbers, its bytes there, the bits a code of one that stays packed
    (None for others), and whether packing packs it."""

    count: int
    size: int
    bits: int | None
    packs: bool


@dataclass(frozen=True)
class OpeningMemory:
    """Bytes of the process that are resident at most, by number format; "stored" is the one that the files
    have."""

    open: dict[str, int]
    first_request: dict[str, int]


def gguf_opening_memory(config: GPTConfig, tensors: list[StoredMatrix]) -> OpeningMemory:
    """Of a GGUF file, whose tensors come one at a time: the weights, or the one tensor that takes the most on
    the way."""
    names = ["stored", *UNQUANTIZED_BYTES, *FORMATS]
    weights = {name: sum(_resident_bytes(tensor, name) for tensor in tensors) for name in names}
    peak = {name: max(_peak_bytes(tensor, name) for tensor in tensors) for name in names}
    return _memory(config, weights, {name: max(0, peak[name] - weights[name]) for name in names}, 0)


def folder_opening_memory(
    config: GPTConfig, types: Mapping[str, int], largest_file: int, transposed: int, compared: bool
) -> OpeningMemory:
    """Of a folder with so many bytes of weights in each of the `types` (by PyTorch's names), in files of at
    most `largest_file` bytes. Stored weights are mapped and stay so, but for those that lie `transposed`
    (bytes), which the kernels want otherwise; unless they are `compared` with checksums, the first request
    reads them. For another number format the file is mapped meanwhile, beside the result."""
    counts = count_parameters(config)
    weights = {"stored": sum(types.values())} | {
        name: width * counts.total for name, width in UNQUANTIZED_BYTES.items()
    }
    for name, form in FORMATS.items():
        weights[name] = _packed_bytes(counts.packable, form) + 4 * (counts.total - counts.packable)
    own = {"bfloat16": "bf16", "float32": "fp32"}.get(max(types, key=lambda kind: types[kind], default=""))
    beside = {name: 0 if name in ("stored", own) else largest_file for name in weights}
    if not compared:
        beside |= {name: -weights[name] for name in ("stored", own) if name is not None}
    return _memory(config, weights, beside, transposed, own)


def _memory(
    config: GPTConfig,
    weights: dict[str, int],
    beside: dict[str, int],
    transposed: int,
    own: str | None = None,
) -> OpeningMemory:
    base = PYTHON_BYTES + MODULE_BYTES + BYTES_PER_TOKEN * config.vocab_size
    kernels = KERNEL_BYTES if count_parameters(config).total >= MIN_PARAMETERS_FOR_KERNELS else 0
    opened = {name: base + size + beside[name] for name, size in weights.items()}
    asked = {
        name: base + size + kernels + (transposed if name in ("stored", own) else 0)
        for name, size in weights.items()
    }
    return OpeningMemory(
        dict(_rounded(opened)), {name: max(size, round(opened[name])) for name, size in _rounded(asked)}
    )


def _rounded(sizes: Mapping[str, float]) -> Iterator[tuple[str, int]]:
    return ((name, round(size)) for name, size in sizes.items())


def _stays_packed(tensor: StoredMatrix, name: str) -> bool:
    peak = 8 if name == "stored" else FORMATS[name].bits if name in FORMATS else 0
    return tensor.bits is not None and tensor.bits <= peak


def _resident_bytes(tensor: StoredMatrix, name: str) -> int:
    if _stays_packed(tensor, name):
        return tensor.size
    if name in FORMATS and tensor.packs:
        return _packed_bytes(tensor.count, FORMATS[name])
    return UNQUANTIZED_BYTES.get(name, 4) * tensor.count


def _peak_bytes(tensor: StoredMatrix, name: str) -> int:
    """The tensor mapped, and copied a few times or dequantised, until it is what is held."""
    if _stays_packed(tensor, name):
        return 4 * tensor.size
    return (
        tensor.size
        + 4 * tensor.count
        + BYTES_PER_DEQUANTIZED_VALUE * min(tensor.count, DEQUANTIZED_AT_ONCE)
        + _resident_bytes(tensor, name)
    )


def _packed_bytes(count: int, form: Format) -> int:
    return math.ceil(count * form.bits / 8) + count * SCALE_BYTES // form.group
