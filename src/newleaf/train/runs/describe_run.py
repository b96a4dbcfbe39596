"""What a run is and came to, beside what its model is: the facts that `newleaf info` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from newleaf.storage.model_info import model_info
from newleaf.train.runs.run_diagnosis import describe_kept_weights, validation_curve
from newleaf.train.runs.run_folder import ADAPTER, MODEL
from newleaf.train.runs.run_history import (
    CONFIG,
    METRICS,
    SUMMARY,
    RunRecord,
    mapping,
    read_run,
    readable_lines,
)

MAX_SOURCES = 5  # sources of a run that are named one by one


def facts(name: str | Path) -> dict[str, Any]:
    """Facts about a run, a model folder, an adapter, a GGUF file or a model of the Hub, as `newleaf info
    --json` prints them.

    What is damaged in a run's small files is said under "damage". Raises InputError when `name` is none of
    these.
    """
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        return model_info(name)
    found = run_facts(folder)
    made = (folder / MODEL).exists() or (folder / ADAPTER).exists()
    if not made:
        return found
    model = model_info(name)
    damage = "; ".join(facts["damage"] for facts in (found, model) if "damage" in facts)
    return found | model | ({"damage": damage} if damage else {})


def run_facts(folder: Path) -> dict[str, Any]:
    """A run's part of the facts."""
    record = read_run(folder)
    notes = list(record.notes)
    config = mapping(folder / CONFIG, yaml.safe_load, [])
    summary = mapping(folder / SUMMARY, json.loads, []) if (folder / SUMMARY).is_file() else {}
    tuned = config.get("task")
    sources = config.get("source")
    names = list(map(str, sources)) if isinstance(sources, list) else [str(sources or "")]
    more = f" and {len(names) - MAX_SOURCES:,} more (run.yaml names them)" if len(names) > MAX_SOURCES else ""
    found = {"run": str(folder), "source": ", ".join(names[:MAX_SOURCES]) + more}
    found |= {"begun": record.begun}
    found |= {"task": str(tuned), "tuned_from": str(config.get("model", ""))} if tuned else {}
    found["state"] = _state(
        record, summary, f"newleaf {'finetune' if tuned else 'pretrain'} --resume {folder}"
    )
    return (
        found
        | _figures(summary)
        | _last(config, summary, folder)
        | ({"damage": "; ".join(notes)} if notes else {})
    )


def _state(record: RunRecord, summary: dict[str, Any], again: str) -> str:
    if summary.get("finished"):
        return "finished"
    return f"stopped early; {again}" if summary else f"not ended; {again}"


def _last(config: dict[str, Any], summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Which step model/ holds, and the last one's figure, on the rows that both were measured on."""
    key = next((name for name in summary if name.startswith("val_")), None)
    lower = key is None or key.endswith(("loss", "bits_per_byte"))
    looks = validation_curve(list(readable_lines(folder / METRICS)), key, not lower) if key else None
    if (
        looks is None
        or not isinstance(summary.get("best_step"), int)
        or not isinstance(summary.get("steps"), int)
    ):
        return {}
    kept = (
        describe_kept_weights(looks, summary, config)
        or f"of step {summary['best_step']:,}, the best and the last"
    )
    name = str(key).removeprefix("val_")
    return {
        "model_holds": kept,
        f"{name}_of_best_check": round(looks.best, 4),
        f"{name}_of_last_check": round(looks.last, 4),
    }


def _figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What was measured, of what, and how long it took."""
    measured = {
        name.removeprefix("val_"): round(value, 4)
        for name, value in summary.items()
        if name.startswith("val_") and isinstance(value, int | float)
    }
    bits = measured.get("bits_per_byte")
    found = {"bits_per_byte": bits} if bits is not None else measured
    names = {"steps": "steps", "tokens_seen": "tokens_seen", "total_seconds": "seconds"}
    return found | {shown: summary[name] for name, shown in names.items() if name in summary}
