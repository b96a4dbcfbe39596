"""Which requests of a batch are being worked on: noted on the disk before, for the next server to find what
one died over.

A file of short lines: `+12` the work on line 12 begins, `-12` it is over, `!12` the server ended without
saying so. Lines that were being worked on when a server ended are suspects. They are tried again one at a
time, so that of several only the one that ends the server a second time is given up.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from newleaf.storage.private_files import make_private_folder, open_private_file

MAX_CRASHES = 2  # after which a line is given up


class InFlightLines:
    """The notes of one batch, `crashes` by line. Opening them counts a crash for every line whose work did
    not come to its end, unless this server has had them open before (`again`): then it lives, and what it
    could not write down is no crash."""

    def __init__(self, folder: Path, id_: str, again: bool = False) -> None:
        make_private_folder(folder)
        path = path_of(folder, id_)
        self.crashes: Counter[int] = Counter()
        self._flying: set[int] = set()
        for mark, number in _notes(path):
            if mark == "+":
                self._flying.add(number)
            else:
                self._flying.discard(number)
                self.crashes[number] += mark == "!"
        self._file = open_private_file(path)
        self._write("-" if again else "!", sorted(self._flying))
        self.crashes.update(() if again else self._flying)
        self._flying.clear()

    def begin(self, number: int) -> None:
        self._flying.add(number)
        self._write("+", [number])

    def end(self, number: int) -> None:
        """Its answer is written, or its work given up on purpose."""
        self._flying.discard(number)
        self._file.write(f"-{number}\n".encode())  # should this be lost, the line is in the output
        self._file.flush()

    def close(self) -> None:
        """The server, or the batch, ends on purpose."""
        for number in sorted(self._flying):
            self.end(number)
        self._file.close()

    def _write(self, mark: str, numbers: Iterable[int]) -> None:
        if lines := "".join(f"{mark}{number}\n" for number in numbers):
            self._file.write(("\n" + lines).encode())  # behind a line that was cut off
            self._file.flush()
            os.fsync(self._file.fileno())


def path_of(folder: Path, id_: str) -> Path:
    return folder / f"{id_}.flight"


def _notes(path: Path) -> list[tuple[str, int]]:
    """What stands in the file; lines that were cut off or are damaged say nothing."""
    text = path.read_bytes().decode("ascii", "replace") if path.exists() else ""
    found = [re.fullmatch(r"([+!-])(\d{1,9})\n", line) for line in text.splitlines(keepends=True)]
    return [(match[1], int(match[2])) for match in found if match]
