"""GGUF files written again by hand, with whatever in their heads a test wants."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from newleaf.storage.gguf_file import open_gguf

Metadata = dict[str, Any]
Tensors = dict[str, list[Any]]  # name: dimensions as the file has them, type, offset


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(value: Any) -> bytes:
    """A metadata value as the format lays it out, its type first."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        inner, code = {str: (8, ""), int: (5, "<i"), float: (6, "<f")}[type(value[0])]
        items = [struct.pack(code, v) if code else text(v) for v in value]
        return struct.pack("<IIQ", 9, inner, len(value)) + b"".join(items)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    code, kind = {bool: ("?", 7), int: ("I", 4), float: ("f", 6)}[type(value)]
    return struct.pack("<I" + code, kind, value)


def assemble(metadata: Metadata, tensors: Tensors, data: bytes) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(key) + packed(value) for key, value in metadata.items())
    for name, (dims, kind, offset) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return head + bytes(-len(head) % 32) + data


def rewrite(good: Path, path: Path, edit: Callable[[Metadata, Tensors], Any]) -> Path:
    """The good file again, its metadata and tensors changed by a function; without checksums, as other
    programs write it."""
    file = open_gguf(good)
    start = min(stored.start for stored in file.tensors.values())
    tensors = {
        name: [list(stored.shape[::-1]), stored.kind, stored.start - start]
        for name, stored in file.tensors.items()
    }
    metadata = {name: value for name, value in file.metadata.items() if "crc32" not in name}
    edit(metadata, tensors)
    path.write_bytes(assemble(metadata, tensors, good.read_bytes()[start:]))
    return path
