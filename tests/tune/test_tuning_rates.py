"""The rates and batches that tuning chooses: small models learn by them, whatever their layout and however
they were made."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from base_models import make_base, opinions, write_rows
from chat_data import base_model, talks

import newleaf
from newleaf.storage.convert_model import convert
from newleaf.storage.pretrained_note import note_in_gguf, note_of
from newleaf.train.objective.train_config import TrainConfig
from newleaf.tune.base_model import open_base
from newleaf.tune.hyperparameters import MIN_STEPS, TaskDefaults, batch_size, optimizer, rates
from newleaf.tune.pretraining_record import PretrainingRecord, find_pretraining_record
from newleaf.tune.start_finetuning import read_config
from newleaf.tune.tune_config import TuneOptimizerConfig

ANY = TaskDefaults(32)


WORDS = (
    "the river was wide and boat small nobody knew way home story fine dull great warm cold poor film long "
    "late we loved hated it grey "
    "bright a , 1 2 3 4 5 6 7 8 9 ten"
)
QUIET: dict[str, Any] = {"quiet": True, "train": {"threads": 1, "prompts": []}}


def pretrained(folder: Path, steps: int, **more: Any) -> Path:
    """A tiny run of newleaf's on sentences without sense."""
    chance, book = random.Random(1), folder.with_suffix(".txt")
    book.write_text(
        "".join(" ".join(chance.choices(WORDS.split(), k=9)) + " .\n" for _ in range(500)), "utf-8"
    )
    newleaf.pretrain(book, out=folder, size="2x64", steps=steps, **QUIET, **more)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained(tmp_path_factory.mktemp("own") / "run", 150)


def before(run: newleaf.Run) -> float:
    return next(float(line["val_loss"]) for line in run.metrics if "val_loss" in line)


@pytest.mark.parametrize("layout", ["gpt2", "qwen3"])
def test_the_defaults_learn_labels_that_two_words_tell_apart(layout: str, tmp_path: Path) -> None:
    """From random weights, of which nothing is known but the width."""
    rows = write_rows(tmp_path / "rows.jsonl", opinions(240))
    train, label = {"threads": 1, "precision": "fp32"}, {"baselines": False}
    run = newleaf.finetune(
        make_base(tmp_path / "base", layout),
        rows,
        task="classify",
        epochs=3,
        out=tmp_path / "run",
        quiet=True,
        train=train,
        label=label,
    )
    assert run.summary["val_accuracy"] > 0.9


@pytest.mark.parametrize("more", [{}, {"lora": {}}])
def test_the_defaults_learn_labels_from_a_run_of_newleafs(
    more: dict[str, Any], own: Path, tmp_path: Path
) -> None:
    rows, label = write_rows(tmp_path / "rows.jsonl", opinions(240)), {"baselines": False}
    train = {"threads": 1}
    run = newleaf.finetune(
        own,
        rows,
        task="classify",
        epochs=3,
        out=tmp_path / "run",
        quiet=True,
        train=train,
        label=label,
        **more,
    )
    assert run.summary["val_accuracy"] > 0.9


def test_the_defaults_learn_answers_and_text(own: Path, tmp_path: Path) -> None:
    chat = newleaf.finetune(
        own, talks(tmp_path / "talks.jsonl"), task="chat", out=tmp_path / "chat", epochs=10, **QUIET
    )
    assert chat.summary["val_loss"] < 0.5 * before(chat)
    other = tmp_path / "other.txt"
    other.write_text("a mountain stood above the town , and snow lay on it until june .\n" * 300, "utf-8")
    text = newleaf.finetune(own, other, task="text", out=tmp_path / "text", **QUIET)
    assert text.summary["val_loss"] < 0.7 * before(text)


def test_a_tuned_model_still_says_how_it_was_pretrained(tmp_path: Path) -> None:
    base = pretrained(tmp_path / "base", 2, optimizer={"kind": "adamw", "learning_rate": 0.004})
    run = newleaf.finetune(
        base,
        talks(tmp_path / "talks.jsonl"),
        task="chat",
        out=tmp_path / "chat",
        quiet=True,
        steps=1,
        train={"threads": 1},
    )
    assert run.config["optimizer"]["kind"] == "adamw"
    noted = json.loads((run.path / "model/config.json").read_text())["newleaf"]["pretrained"]
    assert noted["learning_rate"] == 0.004
    note = tmp_path / "base/model/config.json"  # a run of before there were notes: its run.yaml says the same
    values = json.loads(note.read_text())
    values["newleaf"].pop("pretrained")
    note.write_text(json.dumps(values))
    assert find_pretraining_record(tmp_path / "base/model", {}) == PretrainingRecord(
        "adamw", 0.004, noted["matrix_learning_rate"]
    )


def test_every_way_of_writing_a_model_anew_hands_on_how_it_was_pretrained(tmp_path: Path) -> None:
    """A classifier and one tuned from it, a merged adapter, a saved model, a folder, a GGUF file and the
    folder that is made of it."""
    base = pretrained(
        tmp_path / "base",
        2,
        optimizer={"kind": "muon", "learning_rate": 0.0429, "matrix_learning_rate": 0.031},
    )
    rows, spoken = write_rows(tmp_path / "rows.jsonl", opinions(16)), talks(tmp_path / "talks.jsonl")
    tune: dict[str, Any] = {"quiet": True, "steps": 1, "train": {"threads": 1}}
    label = tune | {"task": "classify", "label": {"baselines": False}}
    newleaf.finetune(base, rows, out=tmp_path / "judge", **label)
    newleaf.finetune(tmp_path / "judge", rows, out=tmp_path / "again", **label)
    newleaf.finetune(base, rows, out=tmp_path / "judge-lora", **label, lora={})
    newleaf.finetune(base, spoken, out=tmp_path / "chat", task="chat", **tune)
    newleaf.finetune(tmp_path / "chat", spoken, out=tmp_path / "chat-lora", task="chat", lora={}, **tune)
    convert(tmp_path / "judge", tmp_path / "judge-folder")
    convert(tmp_path / "judge-lora", tmp_path / "judge-merged", merge=True)
    convert(tmp_path / "chat-lora", tmp_path / "chat-merged", merge=True)
    convert(tmp_path / "chat", tmp_path / "chat.gguf")
    convert(tmp_path / "chat.gguf", tmp_path / "chat-folder", dtype="bf16")
    for name in ("judge", "chat"):
        newleaf.load(tmp_path / name).save(tmp_path / f"{name}-saved")
    newleaf.load(tmp_path / "chat.gguf").save(tmp_path / "chat-saved.gguf")
    names = (
        "judge",
        "again",
        "judge-folder",
        "judge-merged",
        "judge-saved",
        "chat",
        "chat-merged",
        "chat-folder",
        "chat-saved",
    )
    for name in (*names, "chat.gguf", "chat-saved.gguf"):
        config = read_config({"task": "classify", "model": str(tmp_path / name), "source": ["x"]})
        assert open_base(config).origin == PretrainingRecord("muon", 0.0429, 0.031), name


@pytest.mark.parametrize(
    "noted",
    [
        7,
        {},
        {"kind": 7},
        {"kind": "muon", "learning_rate": "x", "matrix_learning_rate": 1},
        {"kind": "x" * 99},
    ],
)
def test_a_note_that_is_none_is_not_handed_on(noted: object) -> None:
    assert note_of({"newleaf": {"pretrained": noted}}) == {}
    assert note_of({"newleaf": noted}) == {}
    fields = noted if isinstance(noted, dict) else {"kind": noted}
    assert note_in_gguf({f"newleaf.pretrained.{name}": value for name, value in fields.items()}) == {}


NOTES: list[object] = [
    7,
    [],
    {},
    {"kind": "sgd"},
    {"kind": "adamw", "learning_rate": "x"},
    {"kind": "muon", "learning_rate": 1e9, "matrix_learning_rate": 1},
    {"kind": "muon", "learning_rate": float("nan"), "matrix_learning_rate": 0.1},
]


@pytest.mark.parametrize("note", NOTES)
def test_a_note_that_nobody_trained_with_is_no_origin(note: object) -> None:
    assert PretrainingRecord.read(note) is None


def test_rates_of_unknown_bases_fall_with_width_and_are_gpt1s_at_gpt1s_width() -> None:
    found = [
        rates(width, None, False, 1000, ANY).learning_rate for width in (32, 64, 160, 576, 768, 2048, 4096)
    ]
    assert found == sorted(found, reverse=True)
    assert rates(768, None, False, 1000, ANY).learning_rate == pytest.approx(6.25e-5, rel=0.02)
    assert 1e-5 <= found[-1] <= 3e-5  # what models of seven billion weights are tuned with
    adapters = [rates(width, None, True, 1000, ANY).learning_rate for width in (64, 576, 4096)]
    assert adapters == sorted(adapters, reverse=True)
    assert 1e-4 <= adapters[-1] <= 4e-4


def test_what_a_recipe_says_stays_and_a_rate_alone_is_adamws() -> None:
    origin = PretrainingRecord("muon", 0.006, 0.02)
    found = rates(160, origin, False, 100, ANY)
    assert optimizer(TuneOptimizerConfig(), found, False).kind == "muon"
    given = optimizer(TuneOptimizerConfig(learning_rate=0.003), found, False)
    assert (given.kind, given.learning_rate) == ("adamw", 0.003)
    kept = optimizer(
        TuneOptimizerConfig(kind="muon", matrix_learning_rate=0.001, weight_decay=0.3), found, False
    )
    assert (kept.matrix_learning_rate, kept.weight_decay, kept.learning_rate) == (
        0.001,
        0.3,
        found.learning_rate,
    )
    assert optimizer(TuneOptimizerConfig(), rates(160, origin, True, 100, ANY), True).weight_decay == 0


@pytest.mark.parametrize(
    ("rows", "epochs", "processes", "micro"),
    [(36, 3.0, 1, 0), (540, 3.0, 1, 0), (540, 3.0, 2, 3), (100_000, 1.0, 4, 0), (5, 1.0, 2, 0)],
)
def test_few_rows_take_small_batches_that_processes_and_portions_share(
    rows: int, epochs: float, processes: int, micro: int
) -> None:
    size = batch_size(ANY, TrainConfig(epochs=epochs, micro_batch_size=micro), rows, 20.0, processes)
    assert size % processes == 0
    assert size % (micro or 1) == 0
    assert size <= 32
    assert rows * epochs / size >= min(MIN_STEPS, rows * epochs / 4 / processes / (micro or 1))
    assert batch_size(ANY, TrainConfig(epochs=epochs, batch_size=7), rows, 20.0, processes) == 7


def test_windows_of_a_short_context_make_larger_batches() -> None:
    usual, train = TaskDefaults(4, batch_tokens=2048), TrainConfig(steps=1000)
    assert [batch_size(usual, train, 10_000, window, 1) for window in (128, 512, 1024)] == [16, 4, 4]


def test_a_chat_models_own_layout_takes_the_defaults_too(tmp_path: Path) -> None:
    """GPT-2's, from random weights: nothing is known of it but its width."""
    base = base_model(tmp_path / "base")
    run = newleaf.finetune(
        base, talks(tmp_path / "talks.jsonl"), task="chat", out=tmp_path / "run", epochs=10, **QUIET
    )
    assert run.summary["val_loss"] < 0.5 * before(run)
