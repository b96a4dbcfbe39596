"""Cutting large documents where no token can cross, so that the pieces' tokens are the document's."""

import re
from collections.abc import Iterable, Iterator

# Byte-level pre-tokenizers (GPT-2's, Qwen2's, o200k's) end a word between a letter or digit and the space
# after it, and a
# line end between two characters that are not spaces ends one too; spaces further along do not change what
# comes before.
SAFE = re.compile(r"(?<=[^\W_])(?=[ \t\r\n])|(?<=\S\n)(?=[^\W_])")
CHUNK = 16 * 2**10
TAIL = 2**10
LONGEST = 2**20


def chunks(pieces: Iterable[str]) -> Iterator[str]:
    """One document's text again, in chunks of about 16 thousand characters that end where a word surely ends.

    Where a million characters offer no such place, the text is cut where it stands: it still decodes back
    exactly, only the tokens at the cut may be others than the whole text's.
    """
    waiting = ""
    for piece in pieces:
        waiting += piece
        start = 0
        while len(waiting) - start > CHUNK:
            cut = _last_safe(waiting, start, min(start + LONGEST, len(waiting)))
            if cut is None:
                if len(waiting) - start < LONGEST:
                    break
                cut = start + LONGEST
            yield waiting[start:cut]
            start = cut
        waiting = waiting[start:]
    if waiting:
        yield waiting


def _last_safe(text: str, start: int, stop: int) -> int | None:
    """A safe place to cut: the last one before start + CHUNK, or else the first one after it."""
    begin = start + CHUNK
    while begin > start:
        begin, end = max(start, begin - TAIL), begin
        places = [
            match.start()
            for match in SAFE.finditer(text, begin, min(end + 1, stop))
            if start < match.start() < stop
        ]
        if places:
            return places[-1]
    match = SAFE.search(text, start + CHUNK, stop)
    return match.start() if match and match.start() < stop else None
