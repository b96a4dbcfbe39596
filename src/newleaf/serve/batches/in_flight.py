"""Notes which lines of a batch are in flight, for the next server to find what one crashed on.

A file of short lines: `+12` line 12 is in flight, `-12` it is finished, `!12` the server crashed on it.
Lines that were in flight at a crash are retried one at a time, so that only the one that crashes the server
a second time is given up.
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
    """The notes of one batch, with `crashes` by line.

    Opening them counts a crash for every line in flight, unless this server has had them open before
    (`again`).
    """

    def __init__(self, folder: Path, id_: str, again: bool = False) -> None:
        make_private_folder(folder)
        path = path_of(folder, id_)
        self.crashes: Counter[int] = Counter()
        self._in_flight: set[int] = set()
        for mark, number in _notes(path):
            if mark == "+":
                self._in_flight.add(number)
            else:
                self._in_flight.discard(number)
                self.crashes[number] += mark == "!"
        self._file = open_private_file(path)
        self._write("-" if again else "!", sorted(self._in_flight))
        self.crashes.update(() if again else self._in_flight)
        self._in_flight.clear()

    def begin(self, number: int) -> None:
        self._in_flight.add(number)
        self._write("+", [number])

    def end(self, number: int) -> None:
        """The line's answer is written, or it was cancelled."""
        self._in_flight.discard(number)
        self._file.write(f"-{number}\n".encode())  # if this is lost, the output has the line
        self._file.flush()

    def close(self) -> None:
        """The server, or the batch, ends on purpose."""
        for number in sorted(self._in_flight):
            self.end(number)
        self._file.close()

    def _write(self, mark: str, numbers: Iterable[int]) -> None:
        if lines := "".join(f"{mark}{number}\n" for number in numbers):
            self._file.write(("\n" + lines).encode())  # after a line that may be incomplete
            self._file.flush()
            os.fsync(self._file.fileno())


def path_of(folder: Path, id_: str) -> Path:
    return folder / f"{id_}.flight"


def _notes(path: Path) -> list[tuple[str, int]]:
    """The notes in a file; incomplete and damaged lines are skipped."""
    text = path.read_bytes().decode("ascii", "replace") if path.exists() else ""
    found = [re.fullmatch(r"([+!-])(\d{1,9})\n", line) for line in text.splitlines(keepends=True)]
    return [(match[1], int(match[2])) for match in found if match]
