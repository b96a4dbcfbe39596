"""Text that a model wrote, made safe for a terminal."""

import re

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Control characters but for tab and newline as U+FFFD: a model may write escape sequences, and a
    terminal would obey them."""
    return CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)
