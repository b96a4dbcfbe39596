"""Whether timed commands end when they promised: `python -m benchmarks.on_time` prints promised and real seconds, alone and beside others.

Each command is a process of its own, timed from its creation to its end. "Beside others" is one busy process for each core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

BUSY = "while True: sum(range(10_000))"


def text_of(size: int, folder: Path) -> Path:
    """A text of about so many bytes."""
    path = folder / f"text-{size}.txt"
    lines, made, number = [], 0, 0
    while made < size:
        lines.append(f"{number} times {number % 97} is {number * (number % 97)}.")
        made += len(lines[-1]) + 1
        number += 1
    path.write_text("\n".join(lines), "utf-8")
    return path


def timed(words: list[str]) -> float:
    """Seconds of a whole command."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "newleaf", *words], check=True, capture_output=True)
    return time.perf_counter() - begin


def commands(folder: Path, promised: int) -> dict[str, list[str]]:
    """What is timed; later ones go on from the first."""
    small, large = text_of(200_000, folder), text_of(30_000_000, folder)
    length, run = ["--time", f"{promised}s"], str(folder / "small")
    return {
        "pretrain, 200 kB": ["pretrain", str(small), *length, "--out", run, "--overwrite"],
        "pretrain, 30 MB": ["pretrain", str(large), *length, "--out", str(folder / "large"), "--overwrite"],
        "pretrain --resume, more time": ["pretrain", "--resume", run, *length],
        "finetune --task text": ["finetune", run, str(small), "--task", "text", *length, "--out", str(folder / "tuned"), "--overwrite"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=int, default=20, help="seconds that each command is promised (default: 20)")
    promised = parser.parse_args().time
    table = Table("command", "promised", "alone", "beside others", title="seconds from creation to end")
    with tempfile.TemporaryDirectory() as place:
        for name, words in commands(Path(place), promised).items():
            alone = timed(words)
            others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(os.cpu_count() or 1)]
            try:
                beside = timed(words)
            finally:
                for other in others:
                    other.kill()
                    other.wait()
            table.add_row(name, str(promised), f"{alone:.1f}", f"{beside:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
