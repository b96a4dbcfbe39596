"""Outputs before and after: `python -m tools.same_outputs --out before.json`, and later `… --against
before.json`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

NAMES = ("families", "writing", "converting", "pretraining", "tuning", "evaluating", "serving")
LIBRARIES = ("torch", "numpy", "numba", "tokenizers", "safetensors", "transformers", "llguidance")
SHOWN = 6  # differences of a part and its first two levels


def main() -> int:
    args = arguments()
    if args.out is None and args.against is None:
        print(
            "same_outputs: give --out FILE to save a record, --against FILE to compare with one, or both",
            file=sys.stderr,
        )
        return 2
    before = json.loads(args.against.read_text("utf-8")) if args.against is not None else None
    threads = args.threads or (before["made with"]["threads"] if before else 2)
    record = {"made with": made_with(threads), "parts": outputs(args.only, threads)}
    if args.out is not None:
        args.out.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return report(before, record, args.tolerance) if before is not None else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.same_outputs", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="save the record here, as JSON")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="compare with this record; 1 is returned where anything differs",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="PART", help=f"some of {', '.join(NAMES)}"
    )
    parser.add_argument("--threads", type=int, help="of each model and command (default: the record's, or 2)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="how far numbers, not digests, may lie apart (default: 0)",
    )
    return parser.parse_args()


def made_with(threads: int) -> dict[str, Any]:
    """What a record depends on besides the code."""
    return {
        "threads": threads,
        "machine": f"{platform.system()} {platform.machine()}, "
        f"NEWLEAF_CPU={os.environ.get('NEWLEAF_CPU', '')}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def outputs(names: list[str], threads: int) -> dict[str, Any]:
    """Each part's outputs, in a temporary folder. The cache of prepared texts is temporary, too: nothing of
    an earlier run is taken."""
    with tempfile.TemporaryDirectory(prefix="same-outputs-") as folder:
        os.environ |= {
            "NEWLEAF_CACHE": f"{folder}/cache",
            "XDG_DATA_HOME": f"{folder}/data",
            "HF_HUB_OFFLINE": "1",
        }
        os.environ |= {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        logging.getLogger("newleaf").setLevel(logging.ERROR)
        from tools.same_outputs.digest import without_folder
        from tools.same_outputs.parts import PARTS  # PyTorch reads the environment when it is imported
        from tools.same_outputs.workplace import Workplace

        work, found = Workplace(Path(folder), threads), {}
        for name in names:
            begin = time.perf_counter()
            found[name] = without_folder(PARTS[name](work), folder)
            print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    return found


def report(before: dict[str, Any], now: dict[str, Any], tolerance: float) -> int:
    """Prints what differs, and returns 1 if anything does. Only parts that both records have are compared."""
    from tools.same_outputs.compare import differences

    parts = [name for name in now["parts"] if name in before["parts"]]
    for each in differences(before["made with"], now["made with"]):
        print(f"not made alike, so that bits may differ for no other reason: {each}")
    found = [
        each
        for name in parts
        for each in differences(before["parts"][name], now["parts"][name], tolerance, name)
    ]
    for _, group in groupby(found, key=lambda each: each.place.split("/")[:3]):
        some = list(group)
        for each in some[:SHOWN]:
            print(each)
        if len(some) > SHOWN:
            print(f"… and {len(some) - SHOWN:,} more in {'/'.join(some[0].place.split('/')[:3])}")
    print(f"{len(found):,} differences in {', '.join(parts)}" if found else f"the same: {', '.join(parts)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
