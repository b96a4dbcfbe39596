"""`newleaf finetune --task preference`, from pairs to a model that prefers what was chosen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_data import FAST, base_model, preferences, write_rows

import newleaf
from newleaf.errors import InputError


def prefer(model: Path, source: Path, out: Path, **options: Any) -> newleaf.Run:
    train = FAST | {"eval_every": 30} | options.pop("train", {})
    return newleaf.finetune(
        model,
        source,
        task="preference",
        out=out,
        quiet=True,
        train=train,
        data={"val_fraction": 0.2},
        **options,
    )


@pytest.mark.parametrize("method", ["dpo", "ipo", "orpo"])
def test_what_was_chosen_becomes_likelier_than_what_was_rejected(tmp_path: Path, method: str) -> None:
    base, data = base_model(tmp_path / "base", template=True), preferences(tmp_path / "pairs.jsonl")
    run = prefer(
        base,
        data,
        tmp_path / "run",
        steps=30,
        preference={"method": method},
        optimizer={"learning_rate": 1e-3},
    )
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    if method == "dpo":
        # nothing is preferred to the reference yet
        assert before["val_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert run.summary["val_loss"] < before["val_loss"]
    assert run.summary["val_accuracy"] == 1
    assert run.summary["val_margin"] > 0
    assert ("val_nll" in run.summary) == (method == "orpo")
    first = next(line for line in run.metrics if line["step"] == 1)
    assert {"loss", method, "accuracy", "margin"} <= first.keys()
    assert run.model.chat([{"role": "user", "content": "say two"}], max_tokens=2) is not None


def test_the_reference_is_the_model_as_it_was_also_after_a_resumption(tmp_path: Path) -> None:
    import shutil

    base, data = base_model(tmp_path / "base", template=True), preferences(tmp_path / "pairs.jsonl")
    whole = prefer(
        base, data, tmp_path / "whole", steps=4, train={"eval_every": 2}, optimizer={"learning_rate": 1e-3}
    )
    part = tmp_path / "part"
    shutil.copytree(whole.path, part)
    (part / "summary.json").unlink()
    shutil.rmtree(max((part / "state").glob("step-*")))
    resumed = newleaf.resume(part, quiet=True)
    assert resumed.summary["resumed_from_step"] == 2
    assert resumed.summary["val_loss"] == whole.summary["val_loss"]
    for name, weight in whole.model.network.state_dict().items():
        assert torch.equal(weight, resumed.model.network.state_dict()[name]), name


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, r"rows\.jsonl:2: chosen and rejected are the same"),
        (
            {"prompt": "x", "chosen": "y", "rejected": ""},
            r"rows\.jsonl:2: rejected: messages\[1\]\.content: is empty",
        ),
        (
            {"prompt": "x", "chosen": "y" * 500, "rejected": "z"},
            r"rows\.jsonl:2: chosen: has \d+ tokens, and an example may have 128",
        ),
    ],
)
def test_bad_pairs_are_refused_before_anything_is_written(
    tmp_path: Path, row: dict[str, str], said: str
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "x", "chosen": "y", "rejected": "z"}, row])
    with pytest.raises(InputError, match=said):
        prefer(base_model(tmp_path / "base", template=True), rows, tmp_path / "run", steps=1)
    assert not (tmp_path / "run").exists()
