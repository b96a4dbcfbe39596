"""An objective whose steps and looks take as long as a test says, by a clock that only they advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from newleaf.train.display.monitor import SilentMonitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.loop.loop import NEXT_TOKEN
from newleaf.train.loop.session import Session
from newleaf.train.objective.objective import SelectionMetric
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.schedule import ScheduleShape
from newleaf.train.objective.train_config import TrainConfig
from newleaf.train.runs.run_folder import RunFolder

ROWS_A_STEP = 4


class Clock:
    """Seconds that pass when someone says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rows:
    """Examples of which any number make a batch."""

    counts, tokens, rows = (float(ROWS_A_STEP),), ROWS_A_STEP, ROWS_A_STEP
    rows_per_epoch = 1000

    def batch(self, step: int) -> Rows:
        return self

    widest = batch  # never asked: the objective says how many rows at once

    def part(self, start: int, stop: int, device: torch.device) -> int:
        return stop - start


class ClockedObjective:
    """Steps of `step_seconds`, looks of `row_seconds` for each of `held_out` rows, a report that reads
    `reports` more."""

    terms, measure, product, validates_before_training, row_tokens, flops_per_token = (
        NEXT_TOKEN,
        SelectionMetric("val_loss", "nats"),
        "model",
        True,
        1.0,
        1e6,
    )
    fingerprints: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        clock: Clock,
        seconds: float,
        step_seconds: float,
        row_seconds: float,
        held_out: int,
        reports: int = 0,
    ) -> None:
        self.clock, self.step_seconds, self.row_seconds = clock, step_seconds, row_seconds
        self.all_rows, self.reports, self.prompts = held_out, reports, ()
        self.train = TrainConfig(
            time=f"{seconds:g}",
            batch_size=ROWS_A_STEP,
            micro_batch_size=ROWS_A_STEP,
            precision="fp32",
            schedule=ScheduleShape(0.06, 0.94),
        )
        self.optimizer = OptimizerConfig(kind="adamw", learning_rate=0.01, weight_decay=0.0)
        self.seen: list[int] = []  # rows of each look
        self.reported: list[int] = []

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def batches(self, share: tuple[int, int]) -> Rows:
        return Rows()

    def losses(self, network: nn.Module, part: int) -> Sequence[Tensor]:
        self.clock.now += self.step_seconds
        return (((network(torch.ones(part, 1)) - 3) ** 2).sum(),)

    def evaluator(self, network: nn.Module, check_stop: Callable[[], None], ranks: Ranks) -> ClockedObjective:
        self.network = network
        return self

    def validate(self, rows: int | None, to_the_end: bool = False) -> dict[str, float]:
        self.seen.append(rows or self.all_rows)
        self.clock.now += self.row_seconds * self.seen[-1]
        with torch.no_grad():
            return {"val_loss": float((self.network(torch.ones(1, 1)) - 3).abs())}

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        self.reported.append(rows)
        self.clock.now += self.row_seconds * rows
        return {}

    def save(self, path: Path, network: nn.Module, weights: dict[str, Tensor]) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.saved = {name: weight.clone() for name, weight in weights.items()}

    def read_back(self, path: Path) -> dict[str, Tensor]:
        return self.saved

    def facts(self, network: nn.Module) -> dict[str, Any]:
        return {}


def run(
    objective: ClockedObjective,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    opening: float = 0.0,
    said: list[str] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """The run's summary, its metrics and the seconds of the whole, of which `opening` passed before it could
    begin."""
    clock = objective.clock
    monkeypatch.setattr("newleaf.train.loop.loop.time", SimpleNamespace(perf_counter=clock))
    monitor: Any = SilentMonitor()
    if said is not None:
        monitor.say = said.append
    started = clock.now
    clock.now += opening
    place, anything = RunFolder(folder), SimpleNamespace(requested=False)
    place.path.mkdir()
    place.metrics.start()
    Session(objective, place, monitor, anything, started, Ranks(clock)).train()  # type: ignore[arg-type]
    return place.read_summary() or {}, list(place.lines()), clock.now - started
