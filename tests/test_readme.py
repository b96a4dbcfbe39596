"""README.md and README.zh-CN.md say the same, and their chart and ratios are what the benchmarks' JSON
says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))


def code(text: str) -> list[str]:
    """Lines between fences, without comments."""
    blocks = text.split("```")[1::2]
    return [line.split("#")[0].rstrip() for block in blocks for line in block.splitlines()]


def test_both_readmes_have_the_same_code() -> None:
    assert code(ENGLISH) == code(CHINESE)


def test_both_readmes_link_to_the_same_pages() -> None:
    links = [set(re.findall(r"\]\(([^)#]+)", text)) for text in (ENGLISH, CHINESE)]
    assert links[0] - {"README.zh-CN.md"} == links[1] - {"README.md"}


def test_both_readmes_give_the_same_figures() -> None:
    assert re.findall(r"\*\*([\d.,]+)", ENGLISH) == re.findall(r"\*\*([\d.,]+)", CHINESE)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/benchmarks.md"])
def test_links_and_pictures_exist(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert link.startswith("http") or (page.parent / link).exists(), link


@pytest.mark.parametrize(
    ("file", "measured", "ours", "peer", "line"),
    [
        ("train-small", "6 × 384", ("newleaf", "bf16"), ("litgpt", "bf16-true"), "training a 6 × 384 GPT"),
        (
            "decode-smollm2",
            "128 new tokens",
            ("newleaf", "stored"),
            ("llama.cpp", "the file's own"),
            "one text",
        ),
        (
            "serving-smollm2",
            "16 texts, HTTP",
            ("newleaf", "stored"),
            ("llama-server", ""),
            "16 clients over HTTP",
        ),
    ],
)
def test_ratios_are_those_of_the_json(
    file: str, measured: str, ours: tuple[str, str], peer: tuple[str, str], line: str
) -> None:
    rows = json.loads((ROOT / "docs" / "benchmarks" / f"{file}.json").read_text("utf-8"))["rows"]
    speeds = {
        (row["contender"], row["precision"]): row["median"] for row in rows if row["measured"] == measured
    }
    said = next(each for each in ENGLISH.splitlines() if each.startswith("|") and line in each)
    assert f"**{speeds[ours] / speeds[peer]:.1f} ×**" in said
