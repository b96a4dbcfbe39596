"""The README's bar chart from benchmarks' JSON: `python -m benchmarks.chart [FOLDER] [OUT.svg]`.

FOLDER (docs/benchmarks) holds what `--json` wrote: decode-smollm2.json, decode-gpt2-124m.json,
serving-smollm2.json and train-small.json. Nothing is computed here but the ratio to the fastest peer.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

OURS, PEER, INK = "#3f9142", "#b4bcc4", "#24292f"


@dataclass(frozen=True)
class Panel:
    title: str
    file: str
    measured: str
    bars: tuple[tuple[str, str], ...]  # (contender, precision), from the top


PANELS = (
    Panel(
        "training a 6 × 384 GPT, bf16",
        "train-small.json",
        "6 × 384",
        (("newleaf", "bf16"), ("plain", "bf16"), ("litgpt", "bf16-true"), ("transformers", "bf16")),
    ),
    Panel(
        "one text, SmolLM2-135M, the same Q4_1 file",
        "decode-smollm2.json",
        "128 new tokens",
        (("newleaf", "stored"), ("llama.cpp", "the file's own")),
    ),
    Panel(
        "one text, GPT-2 124M, all in 4 bits (transformers: bf16)",
        "decode-gpt2-124m.json",
        "128 new tokens",
        (("newleaf", "int4"), ("llama.cpp", "Q4_0 pure"), ("transformers", "bf16")),
    ),
    Panel(
        "16 clients over HTTP, SmolLM2-135M, the same Q4_1 file",
        "serving-smollm2.json",
        "16 texts, HTTP",
        (("newleaf", "stored"), ("llama-server", "")),
    ),
)
NAMES = {"litgpt": "LitGPT", "plain": "plain PyTorch loop"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/benchmarks"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/pictures/peers.svg"))
    args = parser.parse_args()
    results = {panel.file: json.loads((args.folder / panel.file).read_text("utf-8")) for panel in PANELS}
    draw(results, args.out)


def medians(results: dict[str, Any], panel: Panel) -> list[float]:
    """Of a panel's bars, in tokens per second. KeyError where the file has no such row."""
    rows = {
        (row["contender"], row["precision"]): row["median"]
        for row in results[panel.file]["rows"]
        if row["measured"] == panel.measured
    }
    return [rows[bar] for bar in panel.bars]


def draw(results: dict[str, Any], out: Path) -> None:
    plt.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "newleaf", "font.size": 9, "text.color": INK}
    )
    heights = [len(panel.bars) for panel in PANELS]
    figure, axes = plt.subplots(
        len(PANELS), 1, figsize=(8.8, 0.3 * sum(heights) + 0.45 * len(PANELS) + 0.4), height_ratios=heights
    )
    for axis, panel in zip(axes, PANELS, strict=True):
        found = medians(results, panel)
        names = [NAMES.get(contender, contender) for contender, _ in panel.bars]
        bars = axis.barh(names, found, color=[OURS, *[PEER] * (len(found) - 1)], height=0.72)
        labels = [f"{value:,.0f}" for value in found]
        labels[0] += f"  ({found[0] / max(found[1:]):.1f} ×)"
        axis.bar_label(bars, labels, padding=4)
        axis.set_title(f"{panel.title}: tokens per second", loc="left", fontsize=9, fontweight="bold")
        axis.invert_yaxis()
        axis.set_xlim(0, 1.18 * max(found))
        axis.xaxis.set_visible(False)
        axis.spines[:].set_visible(False)
        axis.tick_params(left=False)
    machine = results[PANELS[0].file]["machine"]
    sets = ", ".join(name.replace("_", "-").upper() for name in machine["instruction_sets"][-3:])
    about = (
        f"{machine['cores']} cores of an {machine['processor']} ({sets}), no GPU; × over the fastest "
        f"peer shown"
    )
    figure.text(0.01, 0.005, about, fontsize=8)
    figure.tight_layout(rect=(0, 0.025, 1, 1))
    figure.savefig(out, metadata={"Date": None, "Title": "newleaf beside its peers"})


if __name__ == "__main__":
    main()
