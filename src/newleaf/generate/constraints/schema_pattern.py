"""Expressions of JSON Schema as llguidance gets them right.

A class that holds all control characters but not the quotation mark or the backslash is written with those
two all the same (llguidance 1.9). So NUL is taken out of every class that may be one: what is written then
still matches.
"""

from __future__ import annotations

import re

_CLASS_END = re.compile(r"\\.|\]", re.DOTALL)
_STEP = re.compile(r"\\.|\[", re.DOTALL)
_NUL = re.compile(r"\x00|\\x00|\\u0000|\\0|\\c@|\\x\{0+\}|\\u\{0+\}")
_NOTHING = r"[^\x00-\x{10FFFF}]"


def without_nul(pattern: str) -> str:
    """The expression, with NUL left out of its classes."""
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
    """Where the class ends whose bracket stands before `at`."""
    if pattern.startswith("^", at):
        at += 1
    if pattern.startswith("]", at):
        at += 1  # a bracket at the beginning is one of its characters
    while match := _CLASS_END.search(pattern, at):
        at = match.end()
        if match[0] == "]":
            return at
    return len(pattern)
