"""Cutting large documents where no token can cross, so that the pieces' tokens are the document's."""

import re
from collections.abc import Iterable, Iterator

# Byte-level pre-tokenizers (GPT-2's, Qwen2's, o200k's) end a word between a letter or digit and the space
# after it, and a
# line end between two characters that are not spaces ends one too; spaces further along do not change what
# comes before.
SAFE_BOUNDARY = re.compile(r"(?<=[^\W_])(?=[ \t\r\n])|(?<=\S\n)(?=[^\W_])")
CHUNK_CHARS = 16 * 2**10
SEARCH_STEP = 2**10
MAX_CHUNK = 2**20


def chunks(pieces: Iterable[str]) -> Iterator[str]:
    """One document's text again, in chunks of about 16 thousand characters that end where a word surely ends.

    Where a million characters offer no such place, the text is cut where it stands: it still decodes back
    exactly, only the tokens at the cut may be others than the whole text's.
    """
    buffer = ""
    for piece in pieces:
        buffer += piece
        start = 0
        while len(buffer) - start > CHUNK_CHARS:
            cut = _find_safe_boundary(buffer, start, min(start + MAX_CHUNK, len(buffer)))
            if cut is None:
                if len(buffer) - start < MAX_CHUNK:
                    break
                cut = start + MAX_CHUNK
            yield buffer[start:cut]
            start = cut
        buffer = buffer[start:]
    if buffer:
        yield buffer


def _find_safe_boundary(text: str, start: int, stop: int) -> int | None:
    """A safe place to cut: the last one before start + CHUNK, or else the first one after it."""
    begin = start + CHUNK_CHARS
    while begin > start:
        begin, end = max(start, begin - SEARCH_STEP), begin
        places = [
            match.start()
            for match in SAFE_BOUNDARY.finditer(text, begin, min(end + 1, stop))
            if start < match.start() < stop
        ]
        if places:
            return places[-1]
    match = SAFE_BOUNDARY.search(text, start + CHUNK_CHARS, stop)
    return match.start() if match and match.start() < stop else None
