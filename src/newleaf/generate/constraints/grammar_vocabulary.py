"""A tokenizer as llguidance wants it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from newleaf.text.tokenizer import Tokenizer


class LlguidanceTokenizer:
    """The bytes of each id, and ids for text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def description(self) -> dict[str, Any]:
        """What generate/constraints/grammar_process.py reads; bytes stand as characters below 256."""
        table = self._tokenizer.bytes_of_tokens
        return {
            "eos": self._tokenizer.eos_id,
            "bos": self._tokenizer.bos_id,
            "special": [token for token, text in enumerate(table) if not text],
            # A special token has no text, but llguidance wants a name for it.
            "tokens": [
                (text or f"<|special {token}|>".encode()).decode("latin-1")
                for token, text in enumerate(table)
            ],
        }

    def __call__(self, text: str) -> list[int]:
        """Ids that stand for this text exactly, which what the tokenizer gives does not where it puts a space
        before every text."""
        ids, sought = self._tokenizer.encode(text, special_tokens=False), text.encode()
        if b"".join(self._tokenizer.token_bytes(token) for token in ids) == sought:
            return ids
        found, at = [], 0
        while at < len(sought):
            size = next(
                (
                    size
                    for size in range(min(self._longest, len(sought) - at), 0, -1)
                    if sought[at : at + size] in self._ids
                ),
                0,
            )
            if not size:  # llguidance asks for what it can have
                break
            found.append(self._ids[sought[at : at + size]])
            at += size
        return found

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: token for token, text in enumerate(self._tokenizer.bytes_of_tokens) if text}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)
