"""Whether the frames of a .zst file are all there (RFC 8878, section 3.1): zstandard's reader ends without a
word where a file was cut."""

from __future__ import annotations

import os
from typing import IO

MAGIC, SKIPPABLE = 0xFD2FB528, 0x184D2A50  # skippable frames have any last four bits
RLE_BLOCK = 1  # the type of a block that is one byte, repeated


def is_truncated(file: IO[bytes]) -> bool:
    """Whether a file ends within a frame. Only headers are read, so it takes a blink for any size.

    A file whose frames are wrong in another way is not told here: its reader names that.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (place := file.tell()) < size:
        start = file.read(4)
        magic = int.from_bytes(start, "little")
        if len(start) == 4 and magic & ~0xF == SKIPPABLE:
            file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
        elif len(start) == 4 and magic == MAGIC:
            _skip_frame(file)
        else:
            return len(start) < 4
        if file.tell() > size or file.tell() == place:
            return True
    return False


def _skip_frame(file: IO[bytes]) -> None:
    """Go behind a frame, or behind the file's end where the frame is not whole."""
    descriptor = _read_integer(file, 1)
    single, has_sum = descriptor >> 5 & 1, descriptor >> 2 & 1
    window = 1 - single
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content = (single, 2, 4, 8)[descriptor >> 6]
    file.seek(window + dictionary + content, os.SEEK_CUR)
    last = False
    while not last:
        header = file.read(3)
        if len(header) < 3:
            file.seek(1, os.SEEK_END)
            return
        number = int.from_bytes(header, "little")
        last = bool(number & 1)
        file.seek(1 if number >> 1 & 3 == RLE_BLOCK else number >> 3, os.SEEK_CUR)
    file.seek(4 * has_sum, os.SEEK_CUR)


def _read_integer(file: IO[bytes], length: int) -> int:
    return int.from_bytes(file.read(length), "little")
