"""What a run of training leaves behind, without times and paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tools.same_outputs.digest import folder_digest, kept


def run_record(folder: Path, product: str = "model") -> dict[str, Any]:
    """Every line of metrics.jsonl (losses, rates, validations, samples), the product's files, run.yaml and
    summary.json."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {
        "metrics": [kept(line) for line in lines],
        product: folder_digest(folder / product),
        "run.yaml": kept(yaml.safe_load((folder / "run.yaml").read_text("utf-8"))),
        "summary.json": kept(json.loads((folder / "summary.json").read_text("utf-8"))),
    }
