"""Decoding id by id: text goes out as soon as its bytes are complete."""

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from newleaf.text.tokenizer_components import BYTE_TOKEN, is_byte_token

REPLACEMENT = "\ufffd"
MAX_CHARACTER_BYTES = 4  # bytes in UTF-8, and so tokens
CONTEXT_TOKENS = 8  # tokens of what stands before that a decoder is shown


class StreamDecoder(Protocol):
    """Takes ids one at a time and gives back the text that is certain so far."""

    def push(self, token_id: int) -> str:
        """Text that this id completes, or an empty string."""

    def finish(self, cut: bool = True) -> str:
        """What is left. Bytes at the end that begin a character are left out of a text that is `cut` there,
        and are U+FFFD otherwise, as wrong bytes within a text always are."""


class ByteStreamDecoder:
    """For vocabularies whose tokens are bytes: an incremental UTF-8 decoder over them. A character that
    `after` began is completed."""

    def __init__(self, bytes_of_tokens: list[bytes], after: Sequence[int] = ()) -> None:
        self._bytes = bytes_of_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decoder.decode(b"".join(bytes_of_tokens[token_id] for token_id in after[-MAX_CHARACTER_BYTES:]))

    def push(self, token_id: int) -> str:
        return self._decoder.decode(self._bytes[token_id])

    def finish(self, cut: bool = True) -> str:
        return "" if cut else self._decoder.decode(b"", final=True)


class ComparingStreamDecoder:
    """For all others: decodes the last few ids with and without the new one, and gives out the difference.

    The window keeps what went out last, since a decoder may strip the first space or join marks to the word
    before. `token` gives a token's string, None for one that decoding skips. Byte-fallback tokens wait for
    the end of their run: one bad byte makes the decoder replace the whole run. The window begins with the
    last ids of `after`, which stand before the text.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        token: Callable[[int], str | None],
        after: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._token = token
        self._ids = self._context(after)
        self._emitted = len(self._ids) - self._unfinished()
        self._start = 0

    def push(self, token_id: int) -> str:
        token = self._token(token_id)
        if token is None:
            return ""
        self._ids.append(token_id)
        return "" if is_byte_token(token) else self._flush()

    def finish(self, cut: bool = True) -> str:
        if not cut or not self._ids:
            return self._flush(final=True)
        if unfinished := self._unfinished():
            del self._ids[-unfinished:]
            return self._flush(final=True)
        text = self._flush(final=True)
        last = self._token(self._ids[-1]) or ""
        # wrong bytes, or the sign itself, which a text may hold
        whole = is_byte_token(last) or REPLACEMENT in last
        return text if whole else text.removesuffix(REPLACEMENT)

    def _context(self, after: Sequence[int]) -> list[int]:
        """The last ids of `after` that decode to something; a run of byte tokens is taken whole, or it would
        decode to other text."""
        found: list[int] = []
        in_run = False
        for token_id in reversed(after):
            token = self._token(token_id)
            if token is None:
                continue
            if len(found) >= CONTEXT_TOKENS and not (in_run and is_byte_token(token)):
                break
            found.append(token_id)
            in_run = is_byte_token(token)
        return found[::-1]

    def _unfinished(self) -> int:
        """Byte tokens at the end that begin a character and do not complete it."""
        run: list[int] = []
        for token_id in reversed(self._ids):
            byte = BYTE_TOKEN.fullmatch(self._token(token_id) or "")
            if byte is None:
                break
            run.append(int(byte[1], 16))
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        decoder.decode(bytes(run[::-1]))
        return len(decoder.getstate()[0])

    def _flush(self, final: bool = False) -> str:
        before = self._decode(self._ids[self._start : self._emitted])
        text = self._decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith(REPLACEMENT) and not final):
            return ""
        self._start, self._emitted = self._emitted, len(self._ids)
        return text[len(before) :]


class SpecialTokenStreamDecoder:
    """Shows some special tokens, which decoding leaves out, as text of their own. What stands between them is
    decoded by a decoder of its own, which `fresh` makes: it begins inside a text."""

    def __init__(
        self, first: StreamDecoder, fresh: Callable[[], StreamDecoder], shown: Mapping[int, str]
    ) -> None:
        self._decoder = first
        self._fresh = fresh
        self._shown = shown

    def push(self, token_id: int) -> str:
        if token_id not in self._shown:
            return self._decoder.push(token_id)
        before, self._decoder = self._decoder.finish(cut=False), self._fresh()
        return before + self._shown[token_id]

    def finish(self, cut: bool = True) -> str:
        return self._decoder.finish(cut)
