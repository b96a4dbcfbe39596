"""The text that ids stand for, up to its last whole character: what a generation that ends there has
written."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from newleaf.text.tokenizer import Tokenizer


def whole_text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """For byte-level tokenizers; by Python's own decoder, which keeps back what more bytes could complete."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(
        b"".join(tokenizer.token_bytes(token) for token in ids)
    )
