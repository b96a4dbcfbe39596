"""A run is a folder that explains itself: run.yaml, metrics.jsonl, summary.json, loss.png, model/ and state/."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from newleaf.errors import InputError
from newleaf.storage.files import replace_directory, write_atomically, write_json, write_tensors, write_text

CONFIG, METRICS, SUMMARY, PLOT, MODEL, STATE = "run.yaml", "metrics.jsonl", "summary.json", "loss.png", "model", "state"


class RunFolder:
    """The files of one run. Nothing is written before `begin`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = self.path / MODEL
        self.metrics = self.path / METRICS
        self.listeners: list[Callable[[dict[str, Any]], None]] = []  # hear each line that is recorded

    def check_free(self, overwrite: bool) -> None:
        """Raises InputError when the folder holds something that must not be replaced."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, and a run needs a folder")
        if not any(self.path.iterdir()):
            return
        if not (self.path / CONFIG).exists():
            raise InputError(f"{self.path}: exists and holds no run, so it is not touched; choose another --out")
        if not overwrite:
            raise InputError(f"{self.path}: holds a run; --resume {self.path} continues it, --overwrite replaces it")

    def begin(self, config: dict[str, Any]) -> None:
        """Clear an earlier run's files and write run.yaml."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, SUMMARY, PLOT):
            (self.path / name).unlink(missing_ok=True)
        for name in (MODEL, STATE):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.write_config(config)
        self.metrics.touch()

    def write_config(self, config: dict[str, Any]) -> None:
        write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120))

    def read_config(self) -> dict[str, Any]:
        """run.yaml's content. Raises InputError when there is no run here."""
        file = self.path / CONFIG
        if not file.exists():
            raise InputError(f"{self.path}: holds no run (no {CONFIG})")
        try:
            values = yaml.safe_load(file.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
        if not isinstance(values, dict):
            raise InputError(f"{file}: is not a run's configuration")
        return values

    def record(self, **values: Any) -> None:
        """Append a line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
        for listener in self.listeners:
            listener(values)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What metrics.jsonl holds; a last line that was cut short is left out."""
        return read_lines(self.metrics)

    def rewind(self, step: int) -> None:
        """Forget what metrics.jsonl says of later steps than this one."""
        kept = [line for line in self.lines() if line["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_json(self.path / SUMMARY, summary)

    def read_summary(self) -> dict[str, Any] | None:
        file = self.path / SUMMARY
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    def write_plot(self, title: str) -> None:
        from newleaf.train.plot import loss_figure

        with write_atomically(self.path / PLOT) as aside:
            loss_figure(list(self.lines()), title).savefig(aside, format="png", dpi=120)

    def save_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """What a resumed run needs, in safetensors and JSON, whole or not at all."""
        with replace_directory(self.path / STATE) as aside:
            write_tensors(aside / "optimizer.safetensors", tensors)
            write_json(aside / "state.json", values)

    def load_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Raises InputError when there is nothing to resume from, or it is damaged."""
        folder = self.path / STATE
        if not (folder / "state.json").exists():
            raise InputError(f"{self.path}: has no checkpoint to resume from (it stopped before its first); start again with --overwrite")
        try:
            return load_file(folder / "optimizer.safetensors"), json.loads((folder / "state.json").read_text("utf-8"))
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise InputError(f"{folder}: the checkpoint is damaged ({error}); start again with --overwrite") from None


def read_lines(metrics: Path) -> Iterator[dict[str, Any]]:
    """The objects of a metrics.jsonl; a last line that was cut short is left out, and a file that is not there is empty."""
    if metrics.exists():
        with metrics.open(encoding="utf-8", errors="replace") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))
