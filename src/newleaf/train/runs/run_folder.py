"""A run is a folder that explains itself: run.yaml, metrics.jsonl, summary.json, loss.png, model/ (or
adapter/) and state/."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from newleaf.errors import InputError
from newleaf.storage.atomic_write import (
    remove_directory,
    remove_leftovers,
    write_atomically,
    write_json,
    write_text,
)
from newleaf.train.runs.folder_lock import NAME as LOCK
from newleaf.train.runs.metrics_file import MetricsFile
from newleaf.untrusted import parse_yaml, read_object, read_text

CONFIG, METRICS, SUMMARY, PLOT, MODEL, STATE = (
    "run.yaml",
    "metrics.jsonl",
    "summary.json",
    "loss.png",
    "model",
    "state",
)
ADAPTER = "adapter"  # in the place of model/, where only an adapter was trained
BEST = "best"  # in state/: the best model, while model/ holds one that a stop left
PENDING_CONFIG = ".run.yaml.coming"  # the configuration of a run that is taking the place of an earlier one
REQUIRED = ("finished", "steps", "tokens_seen", "total_seconds")  # of summary.json
SECTIONS = ("train", "record")  # of run.yaml, which are mappings
REPORTS = ("report.json", "report.txt", "confusion.png", "answers.jsonl")  # of tuned runs


class RunFolder:
    """The files of one run. Nothing is written before `begin`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = self.path / MODEL
        self.product = self.model  # what the run makes; a session says when it is ADAPTER
        self.state = self.path / STATE
        self.metrics = MetricsFile(self.path / METRICS)
        self.listeners: list[Callable[[dict[str, Any]], None]] = []  # hear each line that is recorded

    def is_run(self) -> bool:
        return (self.path / CONFIG).exists()

    def made(self) -> Path:
        """The folder of what the run made: model/, or adapter/ where only that was trained."""
        return (
            self.path / ADAPTER if not self.model.exists() and (self.path / ADAPTER).exists() else self.model
        )

    def check_free(self, overwrite: bool) -> None:
        """Raises InputError when the folder holds something that must not be replaced."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, and a run needs a folder")
        # a run killed before it had begun
        if all(path.name == LOCK or path.match(".*.tmp") for path in self.path.iterdir()):
            return
        if not (self.path / CONFIG).exists():
            raise InputError(
                f"{self.path}: exists and holds no run, so it is not touched; choose another --out"
            )
        if not overwrite:
            raise InputError(
                f"{self.path}: holds a run; --resume {self.path} continues it, --overwrite replaces it"
            )

    def begin(self, config: dict[str, Any]) -> None:
        """Clear an earlier run's files and write run.yaml.

        Should we be killed on the way, nothing of the earlier run is taken for the new one: what is to come
        is noted first, an earlier summary goes before all else, and run.yaml is replaced when nothing but it
        is left. `coming` goes on from there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if self.is_run():
            write_text(self.path / PENDING_CONFIG, _yaml(config))
        (self.path / SUMMARY).unlink(missing_ok=True)
        for folder in (self.state, self.path / MODEL, self.path / ADAPTER):
            remove_directory(folder)
        for name in (PLOT, METRICS, *REPORTS):
            (self.path / name).unlink(missing_ok=True)
        self.write_config(config)
        self.metrics.start()
        (self.path / PENDING_CONFIG).unlink(missing_ok=True)

    def extend(self, config: dict[str, Any]) -> None:
        """Begin a further part of the run.

        Its summary goes first, so that a kill in between leaves the run as it was, not ended.
        """
        (self.path / SUMMARY).unlink(missing_ok=True)
        self.write_config(config)

    def coming(self) -> dict[str, Any] | None:
        """The configuration of a run that was killed while it took the place of an earlier one.

        None where there is no such run.
        """
        return _configuration(self.path / PENDING_CONFIG) if (self.path / PENDING_CONFIG).exists() else None

    def sweep(self) -> None:
        """Remove what a killed process left half written; for whoever holds the folder's lock."""
        if self.path.exists():
            remove_leftovers(self.path)

    def set_best_aside(self) -> None:
        """Make room in model/ for weights that are no part of the run, keeping those that are."""
        self.product.rename(self.state / BEST)

    def restore_best(self) -> None:
        """Undo `set_best_aside`, if it was done."""
        if (self.state / BEST).exists():
            shutil.rmtree(self.product, ignore_errors=True)
            (self.state / BEST).rename(self.product)

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.path / CONFIG, _yaml(config))

    def read_config(self) -> dict[str, Any]:
        """run.yaml's content. Raises InputError when there is no run here."""
        if not self.is_run():
            raise InputError(f"{self.path}: holds no run (no {CONFIG})")
        return _configuration(self.path / CONFIG)

    def record(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        self.metrics.append(values)
        for listener in self.listeners:
            listener(values)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What metrics.jsonl holds; a last line that was cut short is left out."""
        return self.metrics.lines()

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / SUMMARY, summary)

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json's content, None where there is none yet. Raises InputError when it is damaged."""
        file = self.path / SUMMARY
        if not file.exists():
            return None
        values = read_object(file)
        if lacking := [name for name in REQUIRED if name not in values]:
            raise InputError(f"{file}: is not a run's summary, it lacks {lacking[0]}")
        return values

    def write_plot(self, title: str, clock: Callable[[], float] = time.monotonic) -> float:
        """Draw loss.png; the seconds it took, without those of importing Matplotlib, which come once."""
        from newleaf.train.runs.loss_plot import loss_figure

        begin = clock()
        with write_atomically(self.path / PLOT) as aside:
            loss_figure(list(self.lines()), title).savefig(aside, format="png", dpi=120)
        return clock() - begin


def _yaml(config: dict[str, Any]) -> str:
    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120))


def _configuration(file: Path) -> dict[str, Any]:
    """A run.yaml's content. Raises InputError when it is damaged."""
    values = parse_yaml(file, read_text(file))
    if not isinstance(values, dict):
        raise InputError(f"{file}: is not a run's configuration")
    for name in SECTIONS:
        if not isinstance(values.get(name) or {}, dict):
            raise InputError(f"{file}: {name}: is a section of options, not {values[name]!r}")
    return values
