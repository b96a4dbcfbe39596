"""Regular expressions of JSON Schema, rewritten around an error of llguidance.

For a character class with all control characters, llguidance 1.9 also generates the quotation mark and the
backslash. So NUL is removed from every such class; the text still matches the original expression.
"""

from __future__ import annotations

import re

_CLASS_END = re.compile(r"\\.|\]", re.DOTALL)
_STEP = re.compile(r"\\.|\[", re.DOTALL)
_NUL = re.compile(r"\x00|\\x00|\\u0000|\\0|\\c@|\\x\{0+\}|\\u\{0+\}")
_NOTHING = r"[^\x00-\x{10FFFF}]"


def without_nul(pattern: str) -> str:
    """The expression without NUL in its classes."""
    if "[^" not in pattern and not _NUL.search(pattern):
        return pattern
    found, at = [], 0
    while match := _STEP.search(pattern, at):
        found.append(_NUL.sub(lambda _: _NOTHING, pattern[at : match.start()]))
        if match[0] != "[":
            escape = _NUL.match(pattern, match.start())
            found.append(_NOTHING if escape else match[0])
            at = escape.end() if escape else match.end()
            continue
        at = _class_end(pattern, match.end())
        each = pattern[match.start() : at]
        found.append(rf"[{each}&&[^\x00]]" if each.startswith("[^") or _NUL.search(each) else each)
    return "".join([*found, _NUL.sub(lambda _: _NOTHING, pattern[at:])])


def _class_end(pattern: str, at: int) -> int:
    """The index after the class whose bracket is before `at`."""
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):
        at += 1  # the first bracket is a character of the class
    while match := _CLASS_END.search(pattern, at):
        at = match.end()
        if match[0] == "]":
            return at
    return len(pattern)
