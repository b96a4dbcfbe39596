"""Going on with training on documents, against stock transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from base_models import TEXT, make_base

import newleaf


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "gpt2", n_positions=32)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(" ".join(f"{TEXT} In year {n} it began again." for n in range(60)), "utf-8")
    return path


OPTIONS: dict[str, Any] = {
    "optimizer": {"learning_rate": 1e-3},
    "train": {
        "batch_size": 4,
        "precision": "fp32",
        "schedule": {"warmup": 0.0, "decay": 0.0},
        "sample": {"max_tokens": 4},
    },
    "text": {"length": 24},
}


def test_fifty_steps_lose_as_much_as_the_stock_trainers(base: Path, story: Path, tmp_path: Path) -> None:
    """The same weights, batches, AdamW and clipping, in fp32 without dropout."""
    from newleaf.train.display.monitor import SilentMonitor
    from newleaf.train.distributed.process_group import Ranks
    from newleaf.tune.start_finetuning import open_objective, read_config

    run = newleaf.finetune(base, story, task="text", out=tmp_path / "run", steps=50, quiet=True, **OPTIONS)
    ours = [line["loss"] for line in run.metrics if "loss" in line]
    values = {name: value for name, value in run.config.items() if name != "record"}
    batches = open_objective(read_config(values), SilentMonitor(), Ranks()).batches((0, 1))
    rows = []
    for step in range(50):
        batch: Any = batches.batch(step)
        whole = torch.cat((batch.ids, batch.targets[:, -1:]), 1)  # the stock loss shifts by one itself
        # The first label is never predicted, but Trainer's mean would count it.
        rows += [
            {"input_ids": row, "labels": row.clone().index_fill_(0, torch.tensor([0]), -100)} for row in whole
        ]

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *given: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)  # type: ignore[arg-type]

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "stock"), per_device_train_batch_size=4, max_steps=50, learning_rate=1e-3,
        weight_decay=0.01, lr_scheduler_type="constant", logging_steps=1, report_to=[], save_strategy="no",
        disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = InOrder(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    stock = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(stock) == len(ours) == 50
    assert ours == pytest.approx(stock, rel=0.01)
    assert ours[-1] < 0.7 * ours[0]


def test_the_result_is_the_bases_kind_and_better_and_the_run_says_what_it_began_from(
    base: Path, story: Path, tmp_path: Path
) -> None:
    run = newleaf.finetune(base, story, task="text", out=tmp_path / "run", steps=30, quiet=True, **OPTIONS)
    before = next(line for line in run.metrics if line["step"] == 0 and "val_loss" in line)
    assert run.summary["val_bits_per_byte"] < before["val_bits_per_byte"]
    model = transformers.AutoModelForCausalLM.from_pretrained(run.path / "model")
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.allclose(model(ids).logits, run.model.network(ids), atol=1e-4)
    recorded = yaml.safe_load((run.path / "run.yaml").read_text("utf-8"))
    assert (recorded["task"], recorded["model"]) == ("text", str(base))
    again = newleaf.finetune(config=run.path / "run.yaml", out=tmp_path / "again", quiet=True)
    assert (again.path / "model/model.safetensors").read_bytes() == (
        run.path / "model/model.safetensors"
    ).read_bytes()


def test_fresh_weights_are_another_beginning_of_the_same_network(
    base: Path, story: Path, tmp_path: Path
) -> None:
    options = OPTIONS | {"steps": 2, "quiet": True, "task": "text"}
    fresh = newleaf.finetune(base, story, out=tmp_path / "fresh", base={"fresh": True}, **options)
    tuned = newleaf.finetune(base, story, out=tmp_path / "tuned", **options)
    assert fresh.summary["parameters"] == tuned.summary["parameters"]
    assert fresh.metrics[0]["val_loss"] != tuned.metrics[0]["val_loss"]


def test_of_a_large_text_a_timed_run_encodes_what_it_has_time_for(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "newleaf.train.pretraining.prepare_pretraining.matmul_speed", lambda *_: 1.0
    )  # a machine too slow to learn from more than it encodes
    (tmp_path / "long.txt").write_text(
        " ".join(f"{TEXT} In year {n} it began again." for n in range(8000)), "utf-8"
    )
    timed, counted = (
        newleaf.finetune(
            base,
            tmp_path / "long.txt",
            task="text",
            out=tmp_path / name,
            quiet=True,
            **{name: length},
            **OPTIONS,
        )
        for name, length in (("time", "4s"), ("steps", 1))
    )
    assert timed.config["data"]["train_bytes"] == 4 * 50_000
    assert timed.config["record"]["train_tokens"] < counted.config["record"]["train_tokens"] / 2
    assert counted.config["data"]["train_bytes"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "translate"}, r"task: there is none named translate"),
        ({"task": None}, "task: missing"),
        ({"text": {"length": 99}}, "text.length: 99 is beyond the model's context of 32 tokens"),
        ({"optimizer": {"rate": 1}}, "optimizer.rate: no such option"),
        ({"base": {"dropout": 1.5}}, "base.dropout: must be at least 0 and below 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    given: dict[str, Any], said: str, base: Path, story: Path, tmp_path: Path
) -> None:
    with pytest.raises(newleaf.InputError, match=said):
        newleaf.finetune(
            base, story, out=tmp_path / "run", quiet=True, **({"task": "text", "steps": 1} | OPTIONS | given)
        )
    assert not (tmp_path / "run").exists()


def test_the_commands_tune_resume_and_label(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from base_models import opinions, write_rows

    from newleaf.cli.main import main

    rows = write_rows(tmp_path / "rows.jsonl", opinions())
    out = str(tmp_path / "run")
    command = [
        "finetune",
        str(base),
        str(rows),
        "--task",
        "classify",
        "--steps",
        "3",
        "--out",
        out,
        "--train.batch_size",
        "4",
        "--quiet",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "commonest label" in shown
    assert f'newleaf classify {out} "a text"' in shown
    assert main(["finetune", "--resume", out, "--quiet"]) == 0
    assert main(["classify", out, "a fine story", "poor", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["text"] for row in found] == ["a fine story", "poor"]
    assert all(
        row["label"] in ("good", "bad")
        and sum(p["probability"] for p in row["probabilities"]) == pytest.approx(1)
        for row in found
    )
    assert main([*command[:-1], "--label.lenght", "9", "--overwrite"]) == 2
    assert "label.lenght: no such option; did you mean label.length?" in capsys.readouterr().err
