"""Text to model: what pretraining checks and prepares before its objective begins."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from newleaf.errors import InputError
from newleaf.machine import thread_advice
from newleaf.recipe import build, plain
from newleaf.train import run
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.train_config import PretrainConfig
from newleaf.train.pretraining.prepare_pretraining import PreparedRun, prepare
from newleaf.train.pretraining.text_objective import TextObjective
from newleaf.train.runs.run_folder import RunFolder

DEFAULT_TIME = "3m"


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    monitor: Monitor,
    started: float,
    overwrite: bool = False,
    clock: run.Clock = time.monotonic,
) -> RunFolder:
    """Train a new model on `config.source` into the run folder `out`; see `run.begin`."""
    return run.begin(PRETRAINING, config, out, monitor, started, overwrite, clock)


def _with_length(config: PretrainConfig, monitor: Monitor) -> PretrainConfig:
    """The configuration with a length, checked for what needs no text."""
    if not config.source:
        raise InputError("no source: name a text file, a folder or hf:owner/dataset")
    train = config.train
    if not any((train.time, train.steps, train.tokens, train.epochs, train.replay)):
        monitor.say(f"No length given: taking --time {DEFAULT_TIME}.")
        config = dataclasses.replace(config, train=dataclasses.replace(train, time=DEFAULT_TIME))
    return config


def prepared_together(config: PretrainConfig, monitor: Monitor, ranks: Ranks) -> PreparedRun:
    """What the first process prepares and chooses, in all of them.

    The others find text and tokens in the cache, or make them again.
    """
    mine: list[PreparedRun] = []

    def settle() -> dict[str, Any]:
        mine.append(prepare(config, monitor, ranks.size))
        return {"config": plain(mine[0].config), "fingerprints": mine[0].fingerprints}

    settled = ranks.on_rank_zero(settle)
    if (
        ranks.size > 1
        and (advice := thread_advice(settled["config"]["train"]["threads"], ranks.local_size)) is not None
    ):
        monitor.say(advice)
    found = ranks.rank_zero_first(
        lambda: mine[0] if mine else prepare(build(PretrainConfig, settled["config"]), monitor, ranks.size)
    )
    if found.fingerprints != settled["fingerprints"]:
        raise InputError(
            f"process {ranks.rank} finds another text or tokenizer than the first one: they must read the "
            f"same files"
        )
    return found


PRETRAINING = run.RunKind(
    read=lambda values: build(PretrainConfig, values),
    check=_with_length,
    open=lambda config, monitor, ranks: TextObjective(prepared_together(config, monitor, ranks)),
)
