"""Adapters learn from conversations and from preferences, over a base that stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_data import FAST, base_model, preferences, talks

import newleaf
from newleaf.errors import InputError


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_an_adapter_learns_to_answer(tmp_path: Path, weights: str) -> None:
    base = base_model(tmp_path / "base", template=True)
    run = newleaf.finetune(
        base, talks(tmp_path / "talks.jsonl"), task="chat", out=tmp_path / "run", quiet=True, steps=40,
        lora={"weights": weights}, train=FAST | {"eval_every": 40}, optimizer={"learning_rate": 1e-2},
    )  # fmt: skip
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert run.summary["val_loss"] < 0.9 * before["val_loss"]
    assert (run.path / "adapter" / "adapter_config.json").exists()
    assert not (run.path / "model").exists()
    assert run.model.chat([{"role": "user", "content": "say two"}], max_tokens=3) is not None


def test_the_reference_of_an_adapter_is_the_base_under_it(tmp_path: Path) -> None:
    base, data = base_model(tmp_path / "base", template=True), preferences(tmp_path / "pairs.jsonl")
    run = newleaf.finetune(
        base, data, task="preference", out=tmp_path / "run", quiet=True, steps=20, lora={},
        data={"val_fraction": 0.2}, train=FAST | {"eval_every": 20}, optimizer={"learning_rate": 1e-2},
    )  # fmt: skip
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert before["val_dpo"] == pytest.approx(0.6931, abs=1e-3)
    assert run.summary["val_accuracy"] > 0.7


def test_an_adapter_cannot_add_tokens_to_its_base(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="lora: an adapter leaves the model's tokens and template as they are"
    ):
        newleaf.finetune(
            base_model(tmp_path / "base"),
            talks(tmp_path / "t.jsonl"),
            task="chat",
            out=tmp_path / "run",
            quiet=True,
            lora={},
        )
