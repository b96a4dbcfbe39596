"""Errors of llguidance about a grammar, as one line for people."""

from __future__ import annotations

import re

from newleaf.generate.constraints.grammar_host import COMPILE_SECONDS

TOO_LARGE = (
    f"the grammar library ended on it, or was not done after {COMPILE_SECONDS:g} seconds; make it smaller"
)
NO_TEXT_FITS = "no text fits it"
PROCESS_ENDED = "the grammar library stopped working on it"


def regex_error(error: str) -> str:
    """The error of a regular expression, with the position that llguidance marks by a caret."""
    drawn = re.search(r"regex parse error:\n {4}(.*)\n( *)\^+", error)
    reason = re.search(r"^error: (.*)$", error, re.MULTILINE)
    if drawn and reason:
        return f"character {len(drawn[2]) - 4 + 1} of {drawn[1]!r}: {reason[1]}"
    return first_line(error)


def grammar_error(error: str) -> str:
    """The error of a Lark grammar, with its line and column."""
    place = re.match(r"(?:at )?(\d+)\((\d+)\):\s+", error)
    what = first_line(error[place.end() :] if place else error)
    return f"grammar, line {place[1]}, column {place[2]}: {what}" if place else f"grammar: {what}"


def first_line(error: str) -> str:
    """The first line of an error of llguidance, in plain words."""
    line = error.strip().split("\n", 1)[0]
    if "NoExtensionBias" in line or "Regex is empty" in line or line == 'Unimplemented keys: ["not"]':
        return NO_TEXT_FITS  # {"not": {}} remains where `not` was resolved
    before, unsatisfiable, why = line.partition("Unsatisfiable schema: ")
    return (
        f"{NO_TEXT_FITS}: {why}"
        if unsatisfiable and before in ("", "failed to compile JSON schema: ")
        else line
    )
