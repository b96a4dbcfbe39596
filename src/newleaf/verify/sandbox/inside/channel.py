"""Messages between the judge and the program: a length of four bytes, then plain data."""

from __future__ import annotations

import os
import struct

from .plain import BYTES, NotPlainError, decode, encode

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any


class ClosedError(Exception):
    """The other side is gone."""


class Channel:
    """One side's end: two descriptors."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing

    def send(self, *message: object) -> None:
        """Raises NotPlainError, with nothing sent, for what does not cross; ClosedError."""
        text = encode(message)
        left = memoryview(struct.pack("!I", len(text)) + text)
        try:
            while left:
                left = left[os.write(self.writing, left) :]
        except OSError:
            raise ClosedError from None

    def receive(self) -> tuple[Any, ...]:
        """The next message. Raises NotPlainError for what is none, ClosedError."""
        (size,) = struct.unpack("!I", self._read(4))
        if size > BYTES:
            raise NotPlainError(f"a message of more than {BYTES:,} bytes")
        message = decode(self._read(size))
        if not isinstance(message, tuple) or not message or not isinstance(message[0], str):
            raise NotPlainError("not a message of the form agreed on")
        return message

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            try:
                part = os.read(self.reading, min(size, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise ClosedError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
