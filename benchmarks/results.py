"""A benchmark's rows as JSON (`--json FILE`), with the machine and the versions that they depend on."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numba", "transformers", "peft", "litgpt", "llama-cpp-python", "lm_eval")
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE as JSON too")


def row(contender: str, precision: str, measured: str, unit: str, values: Iterable[float]) -> dict[str, Any]:
    """One contender's measurements of one thing: their median, least and most, and how many there were."""
    found = list(values)
    return {
        "contender": contender,
        "precision": precision,
        "measured": measured,
        "unit": unit,
        "median": rounded(statistics.median(found)),
        "min": rounded(min(found)),
        "max": rounded(max(found)),
        "rounds": len(found),
    }


def rounded(value: float) -> float:
    """Four significant digits: more than any of these measurements has."""
    return float(f"{value:.4g}")


def write_json(
    path: Path | None, benchmark: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> None:
    """Writes the rows where `--json` asked for it."""
    if path is None:
        return
    about = {"benchmark": benchmark, "settings": settings, "machine": machine(), "versions": versions()}
    path.write_text(json.dumps(about | {"rows": list(rows)}, indent=1, ensure_ascii=False) + "\n", "utf-8")


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    return {
        "processor": name,
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def versions() -> dict[str, str]:
    """Those of newleaf and its peers that are installed."""
    found = {}
    for package in ("newleaf", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
