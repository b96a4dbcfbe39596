"""How --help is laid out: a usage line of the words alone, and lists that are wrapped to the terminal with
their indents kept."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable

# of a list: an indented name and a gap, under whose end its text goes on
ENTRY = re.compile(r" +\S+(?: \S+)* {2,}| *")


class HelpFormatter(argparse.HelpFormatter):
    """Lines of an epilog stay lines, unlike in argparse's own, and none is wider than the terminal, unlike in
    its raw one."""

    def _format_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: object, prefix: str | None
    ) -> str:
        words = [
            self._format_args(each, self._get_default_metavar_for_positional(each))
            for each in actions
            if not each.option_strings
        ]
        start = "usage:" if prefix is None else prefix  # argparse asks for a command's name with an empty one
        line = " ".join(
            [
                *([start] if start else []),
                self._prog,
                *(["[OPTION …]"] if any(each.option_strings for each in actions) else []),
                *words,
            ]
        )
        return textwrap.fill(line, self._width, subsequent_indent=" " * 7, break_on_hyphens=False) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(self._wrapped(line, width, indent) for line in text.splitlines())

    @staticmethod
    def _wrapped(line: str, width: int, indent: str) -> str:
        begin = ENTRY.match(line)
        hanging = indent + " " * (begin.end() if begin is not None else 0)
        cut = textwrap.wrap(
            line,
            width,
            initial_indent=indent,
            subsequent_indent=hanging,
            break_on_hyphens=False,
            break_long_words=False,
        )
        return "\n".join(cut)
