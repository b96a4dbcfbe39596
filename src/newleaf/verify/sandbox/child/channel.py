"""Messages between the test runner and the program: a length of four bytes, then plain data."""

from __future__ import annotations

import os
import struct

from .plain_data import MAX_BYTES, UnsupportedValueError, decode, encode

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any


class ClosedError(Exception):
    """The other process has closed its end."""


class Channel:
    """One end: a file descriptor to read from and one to write to."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def send(self, *message: object) -> None:
        """Raises ClosedError, and UnsupportedValueError, with nothing sent, for unsupported types."""
        text = encode(message)
        left = memoryview(struct.pack("!I", len(text)) + text)
        try:
            while left:
                left = left[os.write(self.writing, left) :]
        except OSError:
            raise ClosedError from None

    def receive(self) -> tuple[Any, ...]:
        """The next message. Raises ClosedError, and UnsupportedValueError for malformed ones."""
        (size,) = struct.unpack("!I", self._read(4))
        if size > MAX_BYTES:
            raise UnsupportedValueError(f"a message of more than {MAX_BYTES:,} bytes")
        message = decode(self._read(size))
        if not isinstance(message, tuple) or not message or not isinstance(message[0], str):
            raise UnsupportedValueError("not a message of the form agreed on")
        return message

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            try:
                chunk = os.read(self.reading, min(size, 1 << 20))
            except OSError:
                chunk = b""
            if not chunk:
                raise ClosedError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)
