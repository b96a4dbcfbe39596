"""The gguf package, which is an extra, and the numbers of its token types."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from newleaf.errors import InputError


class TokenType(IntEnum):
    """What a token of the vocabulary is for, as the format numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def import_gguf() -> Any:
    """The gguf package. Raises InputError when it is not installed."""
    try:
        import gguf
    except ImportError:
        raise InputError("GGUF files need the gguf package: pip install 'newleaf[gguf]'") from None
    return gguf
