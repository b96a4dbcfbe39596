"""A clock that a test hands in and advances, and a machine whose work takes time by that clock alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import newleaf
from newleaf.generate.engine.engine import Engine
from newleaf.recipe import build
from newleaf.train.display.monitor import Monitor, SilentMonitor
from newleaf.train.loop.loop import Loop
from newleaf.train.objective.train_config import PretrainConfig
from newleaf.train.pretraining import prepare_pretraining
from newleaf.train.pretraining.start_pretraining import PRETRAINING, pretrain
from newleaf.train.pretraining.text_evaluator import TextEvaluator
from newleaf.train.run import resume

MATRIX_SPEED = 5e10  # FLOP/s, of the machine
HANGS = 120.0  # seconds of the real clock that only what never ends takes, on a machine however busy


@dataclass
class Clock:
    """Called, it gives its seconds; they pass by `advance`."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Machine:
    """Seconds of the clock that a training step, a validation window and a written piece of text take."""

    clock: Clock
    step: float = 0.05
    window: float = 0.002
    piece: float = 0.005
    samples: list[float] = field(default_factory=list)  # seconds that each has taken

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have training in this process take that time, and measure that speed."""
        take, validate = Loop._step, TextEvaluator.validate

        def step(loop: Loop) -> Any:
            self.clock.advance(self.step)
            return take(loop)

        def look(evaluator: TextEvaluator, rows: int | None, to_the_end: bool = False) -> Any:
            self.clock.advance(self.window * (rows or evaluator.all_rows))
            return validate(evaluator, rows, to_the_end)

        write = Engine.write

        def written(engine: Engine, *given: Any) -> Iterator[Any]:
            self.samples.append(0.0)
            for piece in write(engine, *given):
                self.clock.advance(self.piece)
                self.samples[-1] += self.piece
                yield piece

        patch.setattr(Loop, "_step", step)
        patch.setattr(TextEvaluator, "validate", look)
        patch.setattr(Engine, "write", written)
        patch.setattr(prepare_pretraining, "matmul_speed", lambda *_: MATRIX_SPEED)

    def pretrain(
        self, source: Path, out: Path, monitor: Monitor | None = None, **options: Any
    ) -> newleaf.Run:
        """A timed run by this clock."""
        train = {"time": options.pop("time"), **options.pop("train", {})}
        config = build(PretrainConfig, {"source": [str(source)], "train": train, **options})
        return newleaf.Run(
            pretrain(config, out, monitor or SilentMonitor(), self.clock(), True, self.clock).path
        )

    def resume(self, out: Path, **lengths: Any) -> newleaf.Run:
        return newleaf.Run(resume(PRETRAINING, out, SilentMonitor(), self.clock(), lengths, self.clock).path)
