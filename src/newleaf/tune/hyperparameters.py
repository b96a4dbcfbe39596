"""The dial of tuning: from a base, a task and the rows to an optimizer, its rates and a batch size.

What was measured for each constant stands in docs/finetune.md and docs/lab-notes.md.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from newleaf.format_amounts import counted
from newleaf.train.objective.optimizer_config import OptimizerConfig
from newleaf.train.objective.train_config import TrainConfig
from newleaf.tune.pretraining_record import PretrainingRecord
from newleaf.tune.tune_config import TuneOptimizerConfig

# AdamW for a base of which nothing is known but its width: GPT-1's rate for GPT-1's width (Radford et al.
# 2018, section 4.1). Narrow
# networks want more, by the square of how much narrower they are, wider ones less.
WIDTH, ADAMW_RATE, NARROW_POWER, WIDE_POWER, MAX_ADAMW = 768, 6.25e-5, 2.0, 0.8, 0.01
# Adapters: about ten times the rate of whole networks at usual widths, and less steep (Schulman et al. 2025,
# "LoRA Without Regret").
LORA_WIDTH, LORA_RATE, LORA_POWER, MAX_LORA = 2000, 5e-4, 0.8, 0.01
# Rates of whole networks are for a run of so many steps; fewer want higher rates, as in pretraining, and
# adapters do not.
REFERENCE_STEPS, STEPS_POWER, MAX_FACTOR_FOR_FEW_STEPS, MIN_FACTOR_FOR_MANY_STEPS = 100, 0.5, 3.0, 0.2
MIN_STEPS = 100  # a run of few rows takes smaller batches until it has so many steps
MIN_ROWS = 4  # of a batch
# of pretraining's usual rates, for an optimizer that the recipe asks for and the base was not made with
OTHER = 0.5
DECAY = 0.01  # of the weights; of none in an adapter, since it would pull B · A towards zero
BETA2 = {"muon": 0.95, "adamw": 0.999}


@dataclass(frozen=True)
class TaskDefaults:
    """What a task usually takes.

    A batch has `batch_size` rows where there are enough of them or, where rows are windows that shrink with
    the context, as many as make `batch_tokens`. A base of which is known how it was made is tuned by the
    optimizer that made it, at `share` of its peak rates; for any other and for adapters the rates are
    multiplied by `rate`.
    """

    batch_size: int
    batch_tokens: int = 0
    share: float = 1.0
    rate: float = 1.0


@dataclass(frozen=True)
class Rates:
    """An optimizer and its peak rates, and why these, in words for people."""

    kind: Literal["muon", "adamw"]
    learning_rate: float
    matrix_learning_rate: float
    why: str


def rates(
    n_embd: int, origin: PretrainingRecord | None, lora: bool, steps: float, usual: TaskDefaults
) -> Rates:
    """For a base of this width, tuned for about so many steps.

    `origin` is how it was made, where that is known.
    """
    plain = OptimizerConfig()
    fewer = min((REFERENCE_STEPS / max(steps, 1.0)) ** STEPS_POWER, MAX_FACTOR_FOR_FEW_STEPS)
    if origin is not None and not lora:
        times = usual.share * max(fewer, MIN_FACTOR_FOR_MANY_STEPS)
        adamw, muon = _round(times * origin.learning_rate), _round(times * origin.matrix_learning_rate)
        return Rates(
            origin.kind, adamw, muon, f"by what the base was trained with, for about {counted(steps, 'step')}"
        )
    power = LORA_POWER if lora else NARROW_POWER if n_embd < WIDTH else WIDE_POWER
    rate, width, most = (LORA_RATE, LORA_WIDTH, MAX_LORA) if lora else (ADAMW_RATE, WIDTH, MAX_ADAMW)
    found = min(rate * (width / n_embd) ** power * (1.0 if lora else max(1.0, fewer)), most)
    why = (
        f"for an adapter over a network {n_embd} wide"
        if lora
        else f"for about {counted(steps, 'step')} of a network {n_embd} wide"
    )
    return Rates("adamw", _round(usual.rate * found), plain.matrix_learning_rate, why)


def optimizer(asked: TuneOptimizerConfig, found: Rates, lora: bool) -> TuneOptimizerConfig:
    """The section with nothing left open.

    Where the recipe has a rate of AdamW's but no optimizer it means AdamW.
    """
    kind = asked.kind or ("adamw" if asked.learning_rate is not None else found.kind)
    same = kind == found.kind
    plain = OptimizerConfig()
    chosen = {
        "kind": kind,
        "learning_rate": found.learning_rate if same else OTHER * plain.learning_rate,
        "matrix_learning_rate": found.matrix_learning_rate if same else OTHER * plain.matrix_learning_rate,
        "beta2": BETA2[kind],
        "weight_decay": 0.0 if lora else DECAY,
    }
    given = {name: value for name in chosen if (value := getattr(asked, name)) is not None}
    return dataclasses.replace(asked, **(chosen | given))


def batch_size(usual: TaskDefaults, train: TrainConfig, rows: int, window: float, processes: int) -> int:
    """Rows of a step: the recipe's, or the usual number, fewer where `rows` are so few that there would be
    fewer than `MIN_STEPS`.

    A multiple of the processes that share it and of `train.micro_batch_size`.
    """
    if train.batch_size:
        return train.batch_size
    most = max(usual.batch_size, int(usual.batch_tokens / max(window, 1.0)))
    if train.epochs is not None:
        most = min(most, max(MIN_ROWS, int(rows * train.epochs / MIN_STEPS)))
    unit = math.lcm(processes, train.micro_batch_size or 1)
    return max(unit, min(most, rows) // unit * unit)


def _round(rate: float) -> float:
    """To two digits, as a person would write it."""
    return float(f"{rate:.1e}")
