"""GET /runs and /runs/history: training runs and their metrics, for the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query

from newleaf.errors import InputError
from newleaf.serve.api_errors import ApiError
from newleaf.serve.models.server_context import ServerContext
from newleaf.train.runs.run_history import METRICS, RunRecord, find_runs, named, read_run

AXES = ("steps", "tokens", "seconds", "loss")
MAX_POINTS = 1200  # of a curve in a response, more than a screen has columns
MAX_SAMPLES = 200
MAX_NUMBER = 1e30  # so that sums stay finite
MAX_BYTES = 32 << 20  # of metrics.jsonl in a response; the rest comes with the next


def runs_router(server_context: ServerContext) -> APIRouter:
    """`/runs` and `/runs/history`; empty where the server has no folder of runs."""
    folder, router = server_context.settings.runs, APIRouter()

    @router.get("/runs")
    def runs() -> dict[str, Any]:
        """The training runs of the folder that the server was started with."""
        found = _runs(folder)
        return {
            "object": "list",
            "folder": folder is not None,
            "data": [_run_json(_record(path, name)) for name, path in found.items()],
        }

    @router.get("/runs/history")
    def history(
        run: Annotated[str, Query(max_length=1000, description="A run's id, from the list.")],
        after: Annotated[
            str, Query(max_length=60, description="`cursor` of the last answer, for what came since.")
        ] = "",
    ) -> dict[str, Any]:
        """A run's losses and samples; all of them, or those since `after`."""
        path = _runs(folder).get(run)  # looked up: an id is never joined to a path
        if path is None:
            raise ApiError(
                404,
                f"run: there is no {run!r} in the folder that the server was started with (--runs)",
                "run",
                "run_not_found",
            )
        return read_history(path, run, after)

    return router


def read_history(path: Path, name: str, after: str = "") -> dict[str, Any]:
    """A run's metrics since `after`, a cursor of an earlier response.

    `whole` says that they start from the beginning: the first time, and when the file was replaced, as
    resuming does. Losses are in `unit`.
    """
    record = _record(path, name)
    # Nats per token, where the bytes per token are not known.
    ratio = 1 / math.log(2) / record.bytes_per_token if record.bytes_per_token else 1.0
    lines, cursor, whole = _read_since(path / METRICS, after)
    train, validation, samples = _split_lines(lines, ratio, bool(record.bytes_per_token))
    return {
        "object": "run.history",
        "run": _run_json(record),
        "unit": "bits per byte" if record.bytes_per_token else "nats per token",
        "cursor": cursor,
        "whole": whole,
        "train": _downsampled(train),
        "validation": _columns(validation),
        "samples": samples[-MAX_SAMPLES:],
    }


def _runs(folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    try:
        return named(find_runs(folder), folder)
    except InputError:  # no runs yet
        return {}


def _record(path: Path, name: str) -> RunRecord:
    try:
        return read_run(path, name)

    except (InputError, OSError, ValueError, ArithmeticError) as error:
        return RunRecord(path, name, "damaged", notes=((str(error).splitlines() or ["cannot be read"])[0],))


def _run_json(record: RunRecord) -> dict[str, Any]:
    """The run as JSON, without its path on this machine."""
    values = {name: value for name, value in record.to_dict().items() if name not in ("path", "fingerprint")}
    return {"id": record.name, **{name: _finite(value) for name, value in values.items()}}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_since(metrics: Path, after: str) -> tuple[list[dict[str, Any]], str, bool]:
    """The lines after a cursor, the next cursor, and whether they start from the beginning.

    A cursor is the file's inode and an offset. Resuming replaces the file (`Metrics.rewind`).
    """
    try:
        with metrics.open("rb") as file:
            number = _number_of(metrics)
            place = _offset(after, number)
            if place and (file.seek(0, 2) < place or not _ends_line(file, place)):
                place = 0
            file.seek(place)
            raw = file.read(MAX_BYTES)
    except OSError:
        return [], "", True
    raw = raw[: raw.rfind(b"\n") + 1]  # the last line may be incomplete
    lines = [line for line in map(_parsed, raw.splitlines()) if line is not None]
    return lines, f"{number}.{place + len(raw)}", place == 0


def _number_of(metrics: Path) -> int:
    return metrics.stat().st_ino


def _offset(cursor: str, number: int) -> int:
    file, _, place = cursor.partition(".")
    return (
        int(place) if file == str(number) and place.isascii() and place.isdecimal() and len(place) < 19 else 0
    )


def _ends_line(file: Any, place: int) -> bool:
    file.seek(place - 1)
    return bool(file.read(1) == b"\n")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _split_lines(
    lines: Sequence[Mapping[str, Any]], ratio: float, in_bits: bool
) -> tuple[list[list[float]], list[list[float]], list[dict[str, Any]]]:
    """Points (step, tokens, seconds, loss) of training and validation, and samples.

    A validation has the position of the last step.
    """
    train, validation, samples = [], [], []
    at = [0.0, 0.0, 0.0]
    for line in lines:
        if (loss := _number(line.get("loss"))) is not None:
            at = [_number(line.get(name)) or 0.0 for name in ("step", "tokens", "seconds")]
            train.append([*at, loss * ratio])
        if (found := _number(line.get("val_bits_per_byte" if in_bits else "val_loss"))) is not None:
            validation.append([_number(line.get("step")) or at[0], *at[1:], found])
        if isinstance(line.get("sample"), str):
            samples.append(
                {
                    "step": _number(line.get("step")) or 0,
                    "prompt": str(line.get("prompt", "")),
                    "sample": line["sample"],
                }
            )
    return train, validation, samples


def _downsampled(points: list[list[float]]) -> dict[str, list[float]]:
    """At most MAX_POINTS, each the last position and the mean loss of a group."""
    size = -(-len(points) // MAX_POINTS) or 1
    return _columns(
        [
            [*group[-1][:3], math.fsum(point[3] for point in group) / len(group)]
            for group in _groups(points, size)
        ]
    )


def _groups(points: list[list[float]], size: int) -> Iterator[list[list[float]]]:
    return (points[start : start + size] for start in range(0, len(points), size))


def _columns(points: list[list[float]]) -> dict[str, list[float]]:
    return {axis: [round(point[column], 6) for point in points] for column, axis in enumerate(AXES)}


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return number if abs(number) < MAX_NUMBER else None  # nor infinite, nor NaN
