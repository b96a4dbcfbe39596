"""Reading runs back: what a run folder says of its run, finished, stopped or under way, and its curves.

Imports no PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.model.count import count_parameters, training_flops
from newleaf.model.gpt_config import GPTConfig
from newleaf.untrusted import MAX_YAML_BYTES, read_text

CONFIG, METRICS, SUMMARY = "run.yaml", "metrics.jsonl", "summary.json"
COMING = ".run.yaml.coming"  # as in train/runs/run_folder.py, which imports more than is wanted here
SWEEP = ".sweep"  # in a folder of a sweep's trials, as tune/learning_rate_sweep.py puts it there
DEPTH = 4  # folders below the one that is searched
QUIET = 60.0  # seconds without a new line after which a run without an end counts as stopped


@dataclass(frozen=True)
class RunRecord:
    """One run, as its folder tells it.

    None stands for what the folder does not say; `notes` say what is wrong with it.
    """

    path: Path
    name: str
    state: str  # finished, stopped, running, damaged
    text: str = ""  # where the training text came from
    sources: tuple[str, ...] = ()  # the same, with their paths
    fingerprint: str = ""  # of the text, as it was parted into what is learned and what is held out
    begun: str = ""
    parameters: int | None = None
    shape: str = ""
    steps: int = 0
    tokens: int = 0
    seconds: float | None = None  # of the whole command; of training alone while it has not ended
    val_bits_per_byte: float | None = None  # of model/; the best so far while it has not ended
    flops: float | None = None  # of training
    mfu: float | None = None  # share of the machine's matrix speed that training reached
    bytes_per_token: float | None = None  # of the training text
    task: str = ""  # of a tuned run
    # of a tuned run, what chose its checkpoint: accuracy, rougeL, loss …
    score: tuple[str, float] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        score = dict([self.score]) if self.score is not None else None
        return {
            **self.__dict__,
            "path": str(self.path),
            "sources": list(self.sources),
            "notes": list(self.notes),
            "score": score,
        }


@dataclass(frozen=True)
class Curve:
    """A run's losses in bits per byte: at each step on the training batch, and at each validation.

    Lists of equal length in each half.
    """

    record: RunRecord
    train: Mapping[str, list[float]] = field(default_factory=dict)  # steps, tokens, seconds, flops, loss
    validation: Mapping[str, list[float]] = field(default_factory=dict)


def find_runs(folder: str | Path, trials: bool = True) -> list[Path]:
    """The run folders in `folder`, itself or up to four folders below, by name.

    Without `trials`, not those of sweeps, unless `folder` is one. Raises InputError when there is none.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(
            f"{top}: no such folder; newleaf pretrain book.txt --out {top}/book makes a run in it"
        )
    found = []
    for here, below, files in os.walk(top):
        if not trials and SWEEP in files and Path(here) != top:
            below.clear()
            continue
        if CONFIG in files:
            found.append(Path(here))
        if CONFIG in files or len(Path(here).relative_to(top).parts) >= DEPTH:
            below.clear()
        below[:] = [name for name in below if not name.startswith(".")]
    if not found:
        raise InputError(
            f"{top}: holds no run (no {CONFIG}); newleaf pretrain book.txt --out {top}/book makes one"
        )
    return sorted(found)


def named(paths: Iterable[Path], below: str | Path | None = None) -> dict[str, Path]:
    """Runs by the shortest names that tell them apart: the path from `below`, or the folder's own name, or
    the path as it was given."""
    paths = list(paths)
    if below is not None and [Path(below)] != paths:
        return {path.relative_to(below).as_posix(): path for path in paths}
    names = [path.resolve().name for path in paths]
    return {
        (name if names.count(name) == 1 else str(path)): path for name, path in zip(names, paths, strict=True)
    }


def read_run(path: str | Path, name: str | None = None) -> RunRecord:
    """What a run folder says.

    Damage is noted in the record, not raised; raises InputError when there is no run at all.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: holds no run (no {CONFIG})")
    notes: list[str] = []
    config = mapping(folder / CONFIG, yaml.safe_load, notes)
    summary = mapping(folder / SUMMARY, json.loads, notes) if (folder / SUMMARY).is_file() else {}
    if (folder / COMING).exists():
        notes.append("a new run was killed while it took its place; --resume begins that one")
    last, best = _ends(folder / METRICS, notes)
    network = _network(config, notes)
    made = _section(config, "record")
    steps, tokens = _count(last.get("step")), _count(last.get("tokens"))
    seconds = _number(last.get("seconds"))
    state = _state(folder, config, summary, steps)
    if state == "finished" or (state == "stopped" and _count(summary.get("steps")) >= steps):
        best = _number(summary.get("val_bits_per_byte")) or best
        steps, tokens = _count(summary.get("steps")) or steps, _count(summary.get("tokens_seen")) or tokens
        whole = _number(summary.get("total_seconds")) or seconds
    else:
        whole = seconds
    each = _number(made.get("flops_per_token")) or (float(training_flops(network)) if network else None)
    flops = each * tokens if each and tokens else None
    speed = _number(made.get("matrix_flops"))
    trained = _number(summary.get("train_seconds")) if state == "finished" else seconds
    prints = _section(made, "fingerprints")
    text_bytes, text_tokens = _number(made.get("text_bytes")), _number(made.get("train_tokens"))
    return RunRecord(
        path=folder,
        name=name or folder.resolve().name,
        state=state,
        text=", ".join(
            Path(str(item)).name if "://" not in str(item) else str(item) for item in _sources(config)
        ),
        sources=tuple(map(str, _sources(config))),
        fingerprint=str(prints.get("text") or prints.get("data") or ""),
        begun=str(made.get("begun", "")),
        parameters=count_parameters(network).total if network else _count(summary.get("parameters")) or None,
        shape=f"{network.n_layer} × {network.n_embd}" if network else "",
        steps=steps,
        tokens=tokens,
        seconds=whole,
        val_bits_per_byte=best,
        flops=flops,
        mfu=flops / trained / speed if flops and trained and speed else None,
        bytes_per_token=text_bytes / text_tokens if text_bytes and text_tokens else None,
        notes=tuple(notes),
        task=str(config.get("task") or ""),
        score=_score(summary),
    )


def read_curve(path: str | Path, name: str | None = None) -> Curve:
    """A run's losses over steps, tokens, training seconds and FLOPs.

    What cannot be read is left out and noted in the record.
    """
    record = read_run(path, name)
    per_token = record.flops / record.tokens if record.flops and record.tokens else math.nan
    train: dict[str, list[float]] = {axis: [] for axis in ("steps", "tokens", "seconds", "flops", "loss")}
    validation: dict[str, list[float]] = {axis: [] for axis in train}
    ratio = 1 / math.log(2) / record.bytes_per_token if record.bytes_per_token else math.nan
    at = (0.0, 0.0, 0.0)
    for line in readable_lines(record.path / METRICS):
        loss, bits = _number(line.get("loss")), _number(line.get("val_bits_per_byte"))
        if "loss" in line:
            at = (
                _number(line.get("step")) or 0.0,
                _number(line.get("tokens")) or 0.0,
                _number(line.get("seconds")) or 0.0,
            )
            loss = loss * ratio if loss is not None else None
        for target, value in ((train, loss), (validation, bits)):
            if value is not None and math.isfinite(value):
                for axis, place in zip(("steps", "tokens", "seconds"), at, strict=True):
                    target[axis].append(place)
                target["flops"].append(at[1] * per_token)
                target["loss"].append(value)
    return Curve(record, train, validation)


def _score(summary: Mapping[str, Any]) -> tuple[str, float] | None:
    """The figure that chose a tuned run's checkpoint, which stands first.

    None for bits per byte, which have a field of their own.
    """
    name = next((str(name) for name in summary if str(name).startswith("val_")), None)
    value = _number(summary.get(name)) if name is not None else None
    return (
        None
        if name is None or value is None or name == "val_bits_per_byte"
        else (name.removeprefix("val_"), value)
    )


def _state(folder: Path, config: Mapping[str, Any], summary: Mapping[str, Any], steps: int) -> str:
    """A run that was resumed has metrics beyond its summary.

    One without an end is under way while its metrics grow.
    """
    if summary.get("finished") and _count(summary.get("steps")) >= steps:
        return "finished"
    metrics = folder / METRICS
    fresh = max((file.stat().st_mtime for file in (folder / CONFIG, metrics) if file.exists()), default=0.0)
    ended = bool(summary) and _count(summary.get("steps")) >= steps
    if not ended and time.time() - fresh < QUIET:
        return "running"
    return "stopped" if config else "damaged"


def mapping(file: Path, parse: Any, notes: list[str]) -> dict[str, Any]:
    """What a file of YAML or JSON says under names; {} and a note where it is damaged."""
    try:
        values = parse(read_text(file, MAX_YAML_BYTES))
    except (InputError, OSError, ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:
        reason = (str(error).splitlines() or ["empty"])[0]
        notes.append(f"{file.name} cannot be read ({reason})")
        return {}
    if not isinstance(values, dict):
        notes.append(f"{file.name} is empty or not what a run writes")
        return {}
    return values


def _ends(metrics: Path, notes: list[str]) -> tuple[dict[str, Any], float | None]:
    """The last training step's line, and the best validation.

    Only lines that matter are parsed, so that a long run costs little.
    """
    last: dict[str, Any] = {}
    best: float | None = None
    damaged = 0
    if not metrics.is_file():
        notes.append(f"{METRICS} is missing")
        return last, best
    newest = b""
    with metrics.open("rb") as file:
        for raw in file:
            if not raw.endswith(b"\n"):
                continue  # being written, or cut short
            if b'"val_bits_per_byte"' in raw:
                found = _number((_parsed(raw) or {}).get("val_bits_per_byte"))
                best = found if best is None or (found is not None and found < best) else best
            elif b'"loss"' in raw[:200] and raw.rstrip().endswith(b"}"):
                newest = raw
            damaged += not raw.startswith(b"{") or not raw.rstrip().endswith(b"}")
    if newest:
        last = _parsed(newest) or {}
        damaged += not last
    if damaged:
        notes.append(f"{METRICS} has {counted(damaged, 'damaged line')}, passed over")
    return last, best


def readable_lines(metrics: Path) -> Iterable[dict[str, Any]]:
    """The objects of a metrics.jsonl that can be read and say of which step they are."""
    if metrics.is_file():
        with metrics.open("rb") as file:
            for raw in file:
                if raw.endswith(b"\n") and (line := _parsed(raw)) is not None:
                    yield line


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _network(config: Mapping[str, Any], notes: list[str]) -> GPTConfig | None:
    fields = _section(config, "model")
    if not fields:
        return None
    try:
        return GPTConfig.from_dict(fields)
    except (ValueError, TypeError) as error:
        notes.append(f"{CONFIG}: model.{error}")
        return None


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _sources(config: Mapping[str, Any]) -> list[Any]:
    found = config.get("source")
    return found if isinstance(found, list) else [found] if isinstance(found, str) else []


def _number(value: Any) -> float | None:
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def _count(value: Any) -> int:
    return int(_number(value) or 0)
