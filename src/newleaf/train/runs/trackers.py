"""Trackers: what metrics.jsonl hears, TensorBoard, Weights & Biases and trackio hear too, on this machine
only unless asked otherwise."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from newleaf.errors import InputError

PROJECT = "newleaf"
NOT_METRICS = ("step", "prompt", "sample")  # of a metrics line; all else that is a number is a curve


class Tracker(Protocol):
    """One place outside the run folder that a run is told to."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of one step, by the names that metrics.jsonl has."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """What the model wrote."""

    def close(self) -> None:
        """Everything is on disk afterwards."""


class TensorBoard:
    """Event files in the run's folder `tensorboard/`; `tensorboard --logdir runs` shows all runs below
    `runs`."""

    def __init__(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        folder = run / "tensorboard"
        if not step:
            shutil.rmtree(folder, ignore_errors=True)
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that a resumed run goes on from are taken again, so what was told of them
        # is dropped.
        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        if not step:
            import yaml

            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            self.writer.add_text("run.yaml", "    " + text.replace("\n", "\n    "), 0)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.writer.add_text(
            f"sample/{prompt or 'no prompt'}", "    " + (prompt + text).replace("\n", "\n    "), step
        )

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """An offline run in the run's folder `wandb/`, which `wandb sync` sends when you like.

    WANDB_MODE=online sends at once.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        if not step:
            shutil.rmtree(run / "wandb", ignore_errors=True)
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.wandb: Any = wandb
        mark = run / "wandb" / "newleaf-id"
        known = mark.read_text("utf-8").strip() if mark.exists() else None
        settings = wandb.Settings(
            disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True, console="off"
        )
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run: Any = wandb.init(
            project=project,
            name=run.name,
            id=known,
            resume="allow",
            dir=str(run),
            config=dict(config),
            settings=settings,
        )
        mark.write_text(self.run.id, "utf-8")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.run.log(
            {"sample": self.wandb.Html(f"<pre>{_escaped(prompt + text)}</pre>", inject=False)}, step=step
        )

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run in trackio's own store on this machine (TRACKIO_DIR), which `trackio show --project newleaf`
    opens."""

    def __init__(self, run: Path, config: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        import trackio

        self.trackio: Any = trackio
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        resume = "allow" if step else "never"
        with redirect_stdout(sys.stderr):  # standard output is for results
            trackio.init(
                project,
                run.resolve().name,
                config=_flat(config),
                resume=resume,
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self.trackio.log(dict(values), step=step)

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.trackio.log({"sample": self.trackio.Markdown(f"```\n{prompt + text}\n```")}, step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.trackio.finish()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def check_installed(names: Iterable[str]) -> None:
    """Raises InputError, before any work, for a tracker whose package is not here."""
    for name in names:
        found = find_spec(name)
        # no origin: a mere folder of that name, such as the `wandb/` that wandb makes
        if found is None or found.origin is None:
            raise InputError(f"track: {name} is not installed; pip install 'newleaf[track]' brings it")


class Trackers:
    """The trackers of one run. One that fails is dropped with a sentence: the run goes on."""

    def __init__(
        self,
        names: Iterable[str],
        run: Path,
        config: Mapping[str, Any],
        step: int,
        say: Callable[[str], None],
    ) -> None:
        """`step` is the one that a resumed run goes on from, 0 for a new run; `config` is what run.yaml
        holds."""
        self.say = say
        self.open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self.open[name] = TRACKERS[name](run, config, step)
            except Exception as error:  # whatever another package raises must not end a training run
                self._drop(name, error)

    def record(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        step = int(line["step"])
        values = {
            name: value for name, value in line.items() if name not in NOT_METRICS and _is_number(value)
        }
        for name, tracker in list(self.open.items()):
            try:
                if "sample" in line:
                    tracker.sample(step, line["prompt"], line["sample"])
                else:
                    tracker.numbers(step, values)
            except Exception as error:
                self._drop(name, error)

    def close(self) -> None:
        for name, tracker in list(self.open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._drop(name, error)
        self.open.clear()

    def _drop(self, name: str, error: Exception) -> None:
        self.open.pop(name, None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        self.say(f"{name} hears no more of this run ({reason}); metrics.jsonl does.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found


def _escaped(text: str) -> str:
    import html

    return html.escape(text)
