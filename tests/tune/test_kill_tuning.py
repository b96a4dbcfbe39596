"""Kill -9 while tuning, resume: the same run, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from base_models import make_base, opinions
from chat_data import base_model, talks, write_rows
from killed_runs import finish, kill, outcome, start, wait_for

STEPS = 12
TRAIN = {"batch_size": 4, "eval_every": 3, "precision": "bf16"}


def classify(at: Path) -> tuple[Path, dict[str, Any]]:
    base = make_base(at / "base")
    return write_rows(at / "rows.jsonl", opinions()), {
        "task": "classify", "model": str(base), "steps": STEPS, "train": TRAIN, "base": {"dropout": 0.1},
        "label": {"baselines": False},
    }  # fmt: skip


def chat_with_lora(at: Path) -> tuple[Path, dict[str, Any]]:
    base = base_model(at / "base", template=True)
    return talks(at / "talks.jsonl"), {
        "task": "chat", "model": str(base), "steps": STEPS, "train": TRAIN, "lora": {"rank": 4,
        "dropout": 0.1}, "chat": {"length": 64},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", [classify, chat_with_lora])
def test_tuning_that_is_killed_twice_and_resumed_equals_the_uninterrupted_run(
    kind: Any, tmp_path: Path
) -> None:
    """At a step's end and some milliseconds, then, when the metrics hold a later step, at some moment of the
    resumed run."""
    data, options = kind(tmp_path)
    finish(data, tmp_path / "whole", options)
    wanted = outcome(tmp_path / "whole")
    assert [line["step"] for line in wanted["metrics"] if "loss" in line] == list(range(1, STEPS + 1))
    assert len(wanted["weights"]) == 1
    chance, kills = random.Random(11), 0
    for step in (4, 8):
        process = start(data, tmp_path / "run", options)
        wait_for(tmp_path / "run", step, process)
        kills += kill(process, after=chance.uniform(0, 0.02))
    finish(data, tmp_path / "run", options)
    assert outcome(tmp_path / "run") == wanted
    assert kills
