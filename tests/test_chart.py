"""The bar chart of the README."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

from benchmarks.chart import PANELS, draw, medians

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"


def test_every_bar_is_labelled_with_its_median(tmp_path: Path) -> None:
    results = {panel.file: json.loads((FOLDER / panel.file).read_text("utf-8")) for panel in PANELS}
    draw(results, tmp_path / "chart.svg")
    texts = [
        each.text or ""
        for each in ElementTree.parse(tmp_path / "chart.svg").iter("{http://www.w3.org/2000/svg}text")
    ]
    for panel in PANELS:
        for value in medians(results, panel):
            assert any(text.split("  (")[0] == f"{value:,.0f}" for text in texts), (panel.title, value)


def test_a_missing_contender_is_named() -> None:
    with pytest.raises(KeyError, match="newleaf"):
        medians({PANELS[0].file: {"rows": []}}, PANELS[0])
