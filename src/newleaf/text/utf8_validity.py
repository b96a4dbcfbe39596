"""Which tokens keep a text valid UTF-8: a character that is begun is completed, no byte stands where none
may."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_INCOMPLETE_BYTES = 3  # bytes of a character that is not complete
RESTRICTED_LEAD_BYTES = b"\xe0\xed\xf0\xf4"  # first bytes behind which not every continuation byte may stand
# a first byte without such a rule, by how many bytes are missing
UNRESTRICTED_LEAD_BYTES = (b"", b"\xc2", b"\xe1", b"\xf1")


class Utf8Validity:
    """The tokens of a vocabulary by their bytes. `begun` are bytes at the end of a text that begin a
    character and do not complete it."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces` are the bytes of each id; nothing for special tokens, which may not stand inside a
        character."""
        self._pieces = pieces
        self._fitting: dict[bytes, npt.NDArray[np.bool_]] = {}

    def begun(self, ids: Sequence[int]) -> bytes:
        """The beginning of a character at the end of this text, whatever stands before."""
        found = b""
        for token in reversed(ids):
            piece = self._pieces[token]
            found = piece + found
            if not piece or len(found) > MAX_INCOMPLETE_BYTES:
                break
        return _unfinished(found)

    def after(self, begun: bytes, token: int) -> bytes:
        """What is begun when this token is written, too."""
        piece = self._pieces[token]
        return _unfinished(begun + piece) if piece else b""

    def fits(self, begun: bytes, token: int) -> bool:
        """Whether the text can still become valid UTF-8 with this token."""
        return _fits(begun, self._pieces[token])

    def fitting(self, begun: bytes, size: int) -> npt.NDArray[np.bool_]:
        """`fits` for the ids below `size`, as bool [size]; kept for each state of the decoder, of which there
        are eight."""
        state = _state(begun)
        found = self._fitting.get(state)
        if found is None:
            found = self._fitting[state] = np.array(
                [_fits(state, piece) for piece in self._pieces], dtype=np.bool_
            )
        return found[:size]


def _fits(begun: bytes, piece: bytes) -> bool:
    if not piece:
        return not begun
    text = begun + piece
    try:
        _, whole = codecs.utf_8_decode(text, "strict", False)
    except UnicodeDecodeError:
        return False
    return not _is_surrogate_prefix(text[whole:])


def _is_surrogate_prefix(begun: bytes) -> bool:
    """Whether these bytes begin one: Python's decoder says only at the third byte that it is no character."""
    return len(begun) == 2 and begun[0] == 0xED and begun[1] >= 0xA0


def _state(begun: bytes) -> bytes:
    """A beginning of at most one byte behind which the same bytes may follow (RFC 3629, section 4): second
    bytes depend on the first, and of later ones only how many are missing matters."""
    if not begun:
        return begun
    first = begun[0]
    missing = (2 if first < 0xE0 else 3 if first < 0xF0 else 4) - len(begun)
    if len(begun) > 1 or first not in RESTRICTED_LEAD_BYTES:
        return UNRESTRICTED_LEAD_BYTES[missing]
    return begun


def _unfinished(text: bytes) -> bytes:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(text)
    found = decoder.getstate()[0]
    return b"" if _is_surrogate_prefix(found) else found
