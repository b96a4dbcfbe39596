"""Where a JSON value ends in text that comes in pieces: brackets are counted, but for those within
strings."""

from __future__ import annotations

import re

_STEP = re.compile(r'["{}\[\]]')
_STRING = re.compile(r'["\\]')


class JsonEnd:
    """Reads an object or an array, from its bracket on. What is not JSON in other ways is for the parser to
    find."""

    def __init__(self) -> None:
        self._depth, self._string, self._escaped = 0, False, False

    def push(self, text: str) -> int | None:
        """How much of this text, the next piece, belongs to the value; None while it goes on."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_STRING if self._string else _STEP).search(text, at)
            if found is None:
                return None
            at, sign = found.end(), found[0]
            if self._string:
                self._string, self._escaped = sign != '"', sign == "\\"
            elif sign == '"':
                self._string = True
            else:
                self._depth += 1 if sign in "{[" else -1
                if self._depth <= 0:
                    return at
        return None


def json_end(text: str, start: int = 0) -> int | None:
    """Where the value that begins at `start` ends; None where there is none, or it is not whole."""
    if text[start : start + 1] not in ("{", "["):
        return None
    size = JsonEnd().push(text[start:] if start else text)
    return None if size is None else start + size
