"""Whether timed commands end when they promised: `python -m benchmarks.on_time` prints promised and real
seconds, alone and beside others.

Each command is a process of its own, timed from its creation to its end. "Beside others" is one busy process
for each core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    done = subprocess.run(
        [sys.executable, "-m", "newleaf", *words], check=False, capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"newleaf {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return seconds


def commands(folder: Path, promised: int) -> dict[str, list[str]]:
    """What is timed; later ones go on from the first."""
    small, large = text_of(200_000, folder), text_of(30_000_000, folder)
    length, run = ["--time", f"{promised}s"], str(folder / "small")
    return {
        "pretrain, 200 kB": ["pretrain", str(small), *length, "--out", run, "--overwrite"],
        "pretrain, 30 MB": ["pretrain", str(large), *length, "--out", str(folder / "large"), "--overwrite"],
        "pretrain --resume, more time": ["pretrain", "--resume", run, *length],
        "finetune --task text": [
            "finetune",
            run,
            str(small),
            "--task",
            "text",
            *length,
            "--out",
            str(folder / "tuned"),
            "--overwrite",
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--time", type=int, default=20, help="seconds that each command is promised (default: 20)"
    )
    promised = parser.parse_args().time
    print(f"{'seconds from creation to end':<32}{'promised':>10}{'alone':>10}{'beside others':>15}")
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
            print(f"{name:<32}{promised:>10}{alone:>10.1f}{beside:>15.1f}", flush=True)


if __name__ == "__main__":
    main()
