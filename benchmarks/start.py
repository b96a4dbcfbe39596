"""How fast newleaf answers: `python -m benchmarks.start` prints the medians of several runs of each command."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import newleaf": [sys.executable, "-c", "import newleaf"],
    "newleaf --help": [sys.executable, "-m", "newleaf", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main(repeats: int = 9) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken[name].append(time.perf_counter() - begin)
    table = Table("command", "median", "least", "most", title=f"Wall-clock milliseconds of {repeats} runs, interleaved")
    for name, seconds in taken.items():
        table.add_row(name, *(f"{1000 * f(seconds):.0f}" for f in (statistics.median, min, max)))
    Console().print(table)


if __name__ == "__main__":
    main()
