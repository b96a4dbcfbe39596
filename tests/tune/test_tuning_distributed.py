"""`torchrun … -m newleaf finetune`: two processes with gloo have the losses of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from base_models import make_base, opinions
from chat_data import base_model, talks, write_rows

from newleaf.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason="needs gloo"
    ),
]
STEPS = 6
TRAIN = [
    "--steps",
    str(STEPS),
    "--train.batch_size",
    "8",
    "--train.micro_batch_size",
    "2",
    "--train.precision",
    "fp32",
    "--quiet",
]


@pytest.mark.parametrize("task", ["classify", "chat"])
def test_tuning_in_two_processes_has_the_losses_of_one(task: str, tmp_path: Path) -> None:
    if task == "classify":
        model, data, more = (
            make_base(tmp_path / "base"),
            write_rows(tmp_path / "rows.jsonl", opinions()),
            ["--label.baselines", "false"],
        )
    else:
        model, data, more = (
            base_model(tmp_path / "base", template=True),
            talks(tmp_path / "talks.jsonl"),
            ["--lora", "--chat.length", "64"],
        )
    common = ["finetune", str(model), str(data), "--task", task, *TRAIN, "--train.eval_every", "3", *more]
    assert main([*common, "--out", str(tmp_path / "one")]) == 0
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "newleaf",
    ]
    done = subprocess.run(
        [*torchrun, *common, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = (lines(tmp_path / name) for name in ("one", "two"))
    assert [line["step"] for line in two if "loss" in line] == list(range(1, STEPS + 1))
    for name in ("loss", "val_loss", "tokens"):
        wanted = [line[name] for line in one if name in line]
        assert [line[name] for line in two if name in line] == pytest.approx(wanted, abs=1e-3), name
    assert one[0]["step"] == 0
    losses = [line["loss"] for line in one if "loss" in line]
    assert losses[-1] < losses[0]


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
