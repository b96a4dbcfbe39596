"""Time to loss on tinyshakespeare (table 2): `python -m benchmarks.time_to_loss TEXT [--time 60s] [--seeds 3]`.

The text is split as nanoGPT does, the last tenth held out; loss is nats per character of that tenth, which is bits per byte × ln 2 for this
ASCII text. Each run is a whole `newleaf pretrain` in a process of its own, timed from outside.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--time", default="60s")
    parser.add_argument("--seeds", type=int, default=3)
    args, rest = parser.parse_known_args()
    table = Table("seed", "nats per character", "bits per byte", "seconds", "steps", "tokens/s", "parameters")
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.seeds + 1):
            command = [sys.executable, "-m", "newleaf", "pretrain", str(args.text), "--time", args.time, "--data.val_fraction", "0.1"]
            begin = time.perf_counter()
            subprocess.run([*command, "--seed", str(seed), "--out", f"{folder}/{seed}", "--quiet", *rest], check=True, capture_output=True)
            seconds = time.perf_counter() - begin
            found = json.loads((Path(folder) / str(seed) / "summary.json").read_text("utf-8"))
            losses.append(found["val_bits_per_byte"] * math.log(2))
            table.add_row(
                str(seed), f"{losses[-1]:.4f}", f"{found['val_bits_per_byte']:.4f}", f"{seconds:.1f}", f"{found['steps']:,}",
                f"{found['tokens_per_second']:,.0f}", f"{found['parameters']:,}",
            )  # fmt: skip
    table.title = f"{args.text.name}, --time {args.time} {' '.join(rest)}: median {statistics.median(losses):.4f} nats per character"
    Console().print(table)


if __name__ == "__main__":
    main()
