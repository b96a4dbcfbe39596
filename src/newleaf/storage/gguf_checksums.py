"""Checksums of a GGUF file: of each tensor and of the head before them, in metadata that other programs pass
over."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from newleaf.storage.checksums import CHECKSUMS_KEY, checksums_json

# of the metadata: the head's bytes, the file's, and the head's CRC-32, in hexadecimal digits
HEADER_CHECKSUM_KEY = "newleaf.head.crc32"
CHECKSUM_RECORD = re.compile(r"([0-9a-f]{16}):([0-9a-f]{16}):([0-9a-f]{8})")
PLACEHOLDER = "0" * 8  # a CRC-32 before it is known, and the head's own while it is computed


def placeholder_checksums(kinds: Mapping[str, str]) -> dict[str, str]:
    """Metadata of the length that it will have, for tensors by name in these number formats. GGUF has it
    before the tensors, whose checksums are known when they are written."""
    return {
        CHECKSUMS_KEY: checksums_json({name: f"{kind}:{PLACEHOLDER}" for name, kind in kinds.items()}),
        HEADER_CHECKSUM_KEY: _record(0, 0, PLACEHOLDER),
    }


def write_checksums(path: Path, head: int, checksums: Mapping[str, str]) -> None:
    """Write the checksums of a file that is written otherwise, whose head has so many bytes."""
    with path.open("rb+") as file:
        data = file.read(head)
        kinds = {name: value.partition(":")[0] for name, value in checksums.items()}
        empty = placeholder_checksums(kinds)
        record = _record(head, path.stat().st_size, PLACEHOLDER)
        for before, after in (
            (empty[CHECKSUMS_KEY], checksums_json(checksums)),
            (empty[HEADER_CHECKSUM_KEY], record),
        ):
            data = data.replace(before.encode(), after.encode(), 1)
        data = data.replace(
            record.encode(), record[: -len(PLACEHOLDER)].encode() + f"{zlib.crc32(data):08x}".encode(), 1
        )
        file.seek(0)
        file.write(data)


def check_header(metadata: Mapping[str, Any], data: Any, head: int, size: int) -> None:
    """Raises ValueError where the first `head` bytes of `data` are not those that were written. A head or a
    file of another length was written by some other program, which copied what it did not know."""
    record = metadata.get(HEADER_CHECKSUM_KEY)
    found = CHECKSUM_RECORD.fullmatch(record) if isinstance(record, str) else None
    if found is None or (int(found[1], 16), int(found[2], 16)) != (head, size):
        return
    end = data.find(found[0].encode(), 0, head) + len(found[0])
    if _crc32((data[: end - len(PLACEHOLDER)], PLACEHOLDER.encode(), data[end:head])) != found[3]:
        raise ValueError(
            f"its metadata do not have the checksum that was written with them; if they were edited on "
            f"purpose, take {HEADER_CHECKSUM_KEY} out of them"
        )


def _record(head: int, size: int, crc32: str) -> str:
    return f"{head:016x}:{size:016x}:{crc32}"


def _crc32(parts: Iterable[bytes]) -> str:
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return f"{found:08x}"
