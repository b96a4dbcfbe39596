"""How fast newleaf answers: `python -m benchmarks.start` prints the medians of several runs of each command,
and of compiling kernels."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import newleaf": [sys.executable, "-c", "import newleaf"],
    "newleaf --help": [sys.executable, "-m", "newleaf", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
}

# The first step of a small network, after the imports; prints its seconds.
KERNELS = {
    "training": """
import time, torch
from newleaf.model import GPT, GPTConfig
shape = {"norm": "rms_norm", "qk_norm": True, "positions": "rotary", "activation": "silu", "gated": True}
bare = {"attention_bias": False, "attention_out_bias": False, "feedforward_bias": False}
network = GPT(GPTConfig(512, 256, 1, 1, 64, n_inner=192, **shape, **bare)).bfloat16()
ids = torch.zeros(4, 256, dtype=torch.long)
begin = time.perf_counter()
network.loss(ids, ids).backward()
print(time.perf_counter() - begin)
""",
    "generation": """
import time
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.model import GPT, GPTConfig
network = GPT(GPTConfig(64, 16, 1, 2, 32)).eval()
begin = time.perf_counter()
LoweredRunner(network, threads=1)
print(time.perf_counter() - begin)
""",
}


def first_steps(repeats: int) -> Table:
    """How long the kernels of each take to compile from nothing, and to load when that has been done."""
    table = Table(
        "first step", "kernels compiled", "kernels kept", title=f"Seconds, medians of {repeats} (least–most)"
    )
    for name, program in KERNELS.items():
        rounds = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                environment = os.environ | {"NUMBA_CACHE_DIR": folder}
                command = [sys.executable, "-c", program]
                both = [
                    subprocess.run(
                        command, check=True, capture_output=True, text=True, env=environment
                    ).stdout
                    for _ in range(2)
                ]
                rounds.append([float(taken) for taken in both])
        columns = zip(*rounds, strict=True)
        table.add_row(
            name,
            *(f"{statistics.median(taken):.1f} ({min(taken):.1f}–{max(taken):.1f})" for taken in columns),
        )
    return table


def main(repeats: int = 9) -> None:
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken[name].append(time.perf_counter() - begin)
    table = Table(
        "command", "median", "least", "most", title=f"Wall-clock milliseconds of {repeats} runs, interleaved"
    )
    for name, seconds in taken.items():
        table.add_row(name, *(f"{1000 * f(seconds):.0f}" for f in (statistics.median, min, max)))
    Console().print(table)
    Console().print(first_steps(3))


if __name__ == "__main__":
    main()
