"""Where tables are printed: as wide as the terminal, or as COLUMNS says; wide and without colours where a
program reads them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPED = 200  # columns where nobody says how many there are: nothing is cut or wrapped for a program


def stdout_console() -> Console:
    """A console for standard output, without highlighting of names and numbers."""
    from rich.console import Console

    return Console(
        highlight=False, width=None if has_width() else PIPED, no_color=None if sys.stdout.isatty() else True
    )


def has_width() -> bool:
    """Whether standard output is a terminal, or somebody says how many columns it has."""
    return sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
