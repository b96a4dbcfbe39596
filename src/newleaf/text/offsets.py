"""Where in a text each of its tokens begins, in characters, as OpenAI's `text_offset` counts them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from newleaf.text.tokenizer import Tokenizer


def prompt_offsets(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[int]:
    """For the ids of a prompt that was given as text. Tokens that the tokenizer adds, and an empty prompt's,
    take no characters."""
    found, places = tokenizer.encode_with_offsets(text)
    if found != list(ids):
        return [0] * len(ids)
    offsets, end = [], 0
    for start, stop in places:
        # White space that a token's place leaves out is the token's; parts of one character all begin where
        # it does.
        offsets.append(min(start, end) if stop else end)
        end = max(end, stop)
    return offsets


class TextOffsets:
    """Offsets of tokens as they are written: call it with one id after the other. `start` is where the first
    begins, and `after` are the ids before it, whose last may have begun a character."""

    def __init__(self, tokenizer: Tokenizer, start: int = 0, after: Sequence[int] = ()) -> None:
        self._bytes = tokenizer.bytes_of_tokens
        self._at = start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in after[-4:]:
            self._decoder.decode(self._bytes[token])
        self._drop = tokenizer.drops_first_space and not any(self._bytes[token] for token in after)

    def __call__(self, token: int) -> int:
        at, text = self._at, self._decoder.decode(self._bytes[token])
        if self._drop and self._bytes[token]:
            text, self._drop = text.removeprefix(" "), False
        self._at += len(text)
        return at
