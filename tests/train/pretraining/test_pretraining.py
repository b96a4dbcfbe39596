"""Pretraining from a text file to a run folder: what it leaves, how it resumes, how it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from decoded_text import whole_text
from fake_clocks import Clock, Machine
from safetensors.torch import load_file

import newleaf
from newleaf.recipe import merge

SMALL: dict[str, Any] = {
    "tokenizer": {"vocab_size": 300},
    "model": {
        "n_layer": 2,
        "n_embd": 64,
        "n_head": 2,
        "n_kv_head": 1,
        "head_dim": 32,
        "n_inner": 96,
        "context_length": 64,
    },
    "train": {"batch_size": 8, "eval_every": 10, "sample": {"max_tokens": 10}},
}


def small(book: Path, out: Path, **options: Any) -> newleaf.Run:
    return newleaf.pretrain(book, out=out, quiet=True, **merge(SMALL, options))


@pytest.fixture(scope="module")
def run(book: Path, tmp_path_factory: pytest.TempPathFactory) -> newleaf.Run:
    return small(book, tmp_path_factory.mktemp("runs") / "book", steps=30)


def test_a_run_leaves_the_folder_that_the_docs_describe(run: newleaf.Run) -> None:
    assert sorted(p.name for p in run.path.iterdir()) == [
        "loss.png",
        "metrics.jsonl",
        "model",
        "run.yaml",
        "state",
        "summary.json",
    ]
    promised = [
        "val_bits_per_byte",
        "val_loss",
        "train_seconds",
        "total_seconds",
        "tokens_seen",
        "tokens_per_second",
        "parameters",
        "family",
        "steps",
        "resumed_from_step",
        "version",
    ]
    assert set(promised) <= set(run.summary)
    assert run.summary["steps"] == 30
    assert run.summary["tokens_seen"] == 30 * 8 * 64
    assert run.summary["family"] == "qwen3"
    assert [line["step"] for line in run.metrics if "loss" in line] == list(range(1, 31))
    assert [line["step"] for line in run.metrics if "val_loss" in line] == [10, 20, 30]
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_it_learns(run: newleaf.Run) -> None:
    losses = [line["loss"] for line in run.metrics if "loss" in line]
    assert losses[0] == pytest.approx(math.log(300), abs=0.3)
    assert losses[-1] < losses[0] - 1


def test_stock_transformers_opens_the_model_with_the_same_logits_and_greedy_text(run: newleaf.Run) -> None:
    stock = transformers.AutoModelForCausalLM.from_pretrained(run.path / "model", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    model = run.model
    prompt = "def add_argument(self, 名字):"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == model.tokenizer.encode(prompt)
    with torch.no_grad():
        torch.testing.assert_close(model.network(ids), stock(ids).logits, atol=1e-4, rtol=0)
    out = stock.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
    assert model.generate(prompt, max_tokens=30, temperature=0) == whole_text(model.tokenizer, out.tolist())


def test_the_reported_bits_per_byte_are_those_of_the_saved_model_on_the_last_of_the_text(
    run: newleaf.Run, book: Path
) -> None:
    """Computed here from the file itself with stock transformers: house rule 7 in ten lines."""
    text = book.read_text("utf-8")
    held_out = text[int(0.95 * len(text)) :]
    stock = transformers.AutoModelForCausalLM.from_pretrained(run.path / "model", dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.path / "model")
    ids = [tokenizer.bos_token_id, *tokenizer(held_out).input_ids]
    nats = 0.0
    for start in range(0, len(ids) - 1, 64):
        window = torch.tensor([ids[start : start + 65]])
        with torch.no_grad():
            logits = stock(window[:, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    bits = nats / math.log(2) / len(held_out.encode())
    assert run.summary["val_bits_per_byte"] == pytest.approx(bits, rel=2e-3)  # bf16 in training, fp32 here
    assert run.summary["val_loss"] == pytest.approx(nats / (len(ids) - 1), rel=2e-3)


def test_the_same_seed_gives_the_same_run_and_another_another(
    run: newleaf.Run, book: Path, tmp_path: Path
) -> None:
    again, other = (
        small(book, tmp_path / "again", steps=30),
        small(book, tmp_path / "other", steps=30, seed=2),
    )
    assert weights(again) == weights(run) != weights(other)
    assert losses(again) == losses(run)


def test_an_interrupted_run_is_usable_and_resumes_bit_for_bit(
    run: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropout = {"model": {"residual_dropout": 0.1}}
    whole = small(book, tmp_path / "whole", steps=30, **dropout)
    stop_after(17, monkeypatch)
    stopped = small(book, tmp_path / "stopped", steps=30, **dropout)
    assert stopped.summary["steps"] == 17
    assert stopped.summary["finished"] is False
    assert len(stopped.model.generate("def ", max_tokens=5)) > 0
    monkeypatch.undo()
    resumed = newleaf.resume(tmp_path / "stopped", quiet=True)
    assert resumed.summary["resumed_from_step"] == 17
    assert resumed.summary["steps"] == 30
    assert weights(resumed) == weights(whole)
    assert losses(resumed) == losses(whole)


def test_resuming_a_finished_run_changes_nothing(run: newleaf.Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    newleaf.resume(run.path, quiet=True)
    assert before == {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}


def test_a_timed_run_ends_on_time_and_its_run_yaml_replays_it_exactly(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that steps, validations and samples advance; what the real one does, `python -m
    benchmarks.on_time` measures."""
    machine = Machine(Clock())
    with monkeypatch.context() as patch:
        machine.install(patch)
        timed = machine.pretrain(
            book, tmp_path / "timed", time="8s", **merge(SMALL, {"train": {"eval_every": 0}})
        )
    assert timed.summary["total_seconds"] == pytest.approx(8, abs=0.4)
    assert timed.summary["total_seconds"] <= 8
    replayed = newleaf.pretrain(out=tmp_path / "replayed", config=tmp_path / "timed" / "run.yaml", quiet=True)
    assert losses(replayed) == losses(timed)
    assert weights(replayed) == weights(timed)
    assert replayed.summary["val_bits_per_byte"] == timed.summary["val_bits_per_byte"]


def test_a_timed_run_that_was_stopped_resumes_with_the_time_it_has_left(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(Clock())
    machine.install(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(5, patch)
        stopped = machine.pretrain(
            book, tmp_path / "r", time="12s", **merge(SMALL, {"train": {"eval_every": 0}})
        )
    assert stopped.summary["steps"] == 5
    assert stopped.summary["total_seconds"] < 3
    machine.clock.advance(3600)  # nobody trains in that hour
    resumed = machine.resume(tmp_path / "r")
    assert resumed.summary["resumed_from_step"] == 5
    assert resumed.summary["steps"] > 50
    assert resumed.summary["total_seconds"] == pytest.approx(12, abs=0.4)


def test_more_time_for_a_finished_run_is_spent_as_promised(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(Clock())
    machine.install(monkeypatch)
    machine.pretrain(book, tmp_path / "r", time="6s", **merge(SMALL, {"train": {"eval_every": 0}}))
    begun = machine.clock()
    longer = machine.resume(tmp_path / "r", time="5s")
    assert machine.clock() - begun == pytest.approx(5, abs=0.4)
    assert longer.summary["total_seconds"] == pytest.approx(11, abs=0.8)


def test_gradients_added_up_over_portions_are_those_of_the_whole_batch(book: Path, tmp_path: Path) -> None:
    fp32 = {"train": {"precision": "fp32"}}
    whole = small(book, tmp_path / "whole", steps=5, **fp32)
    parts = small(book, tmp_path / "parts", steps=5, **merge(fp32, {"train": {"micro_batch_size": 2}}))
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize("kind", ["unigram", "char", "byte"])
def test_every_kind_of_tokenizer_trains(kind: str, book: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"tokenizer": {"kind": kind, "vocab_size": 400 if kind == "unigram" else None}}
    found = small(book, tmp_path / kind, steps=2, **options)
    assert found.summary["steps"] == 2
    transformers.AutoTokenizer.from_pretrained(tmp_path / kind / "model")


def test_the_document_mask_and_the_document_layout_train(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"text": f"Row {n} is about {n * 7} things, {'and ' * (n % 9)}more."}) + "\n"
            for n in range(200)
        )
    )
    masked = small(rows, tmp_path / "masked", steps=12, data={"document_mask": True})
    assert losses(masked)[-1] < losses(masked)[0]
    apart = small(
        rows,
        tmp_path / "apart",
        epochs=1,
        data={"layout": "document", "stride": 1},
        model={"context_length": 16},
    )
    assert apart.summary["steps"] > 12


def test_a_run_folder_is_never_replaced_unasked(run: newleaf.Run, book: Path, tmp_path: Path) -> None:
    with pytest.raises(newleaf.InputError, match=r"--resume .* continues it, --overwrite replaces it"):
        small(book, run.path, steps=1)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(newleaf.InputError, match="holds no run, so it is not touched"):
        small(book, tmp_path / "letters", steps=1, overwrite=True)
    assert (tmp_path / "letters" / "dear.txt").exists()


def test_bad_input_leaves_no_folder_behind(book: Path, tmp_path: Path) -> None:
    out = tmp_path / "none"
    (tmp_path / "short.txt").write_text("Too short a text.")
    for source, options, message in (
        (tmp_path / "missing.txt", {}, "missing.txt"),
        (tmp_path / "short.txt", {}, "short|few"),
        (book, {"model": {"n_head": 5, "head_dim": 0}}, "model.n_head"),
        (book, {"model": {"n_heads": 4}}, "model.n_heads: no such option; did you mean model.n_head"),
        (book, {"train": {"sample": {"temperatur": 1}}}, "train.sample.temperatur"),
        (book, {"train": {"device": "tpu"}}, "train.device"),
    ):
        with pytest.raises(newleaf.InputError, match=message):
            small(source, out, steps=3, **options)
        assert not out.exists(), message


def test_a_damaged_checkpoint_is_named(book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(11, monkeypatch)
    small(book, tmp_path / "r", steps=30)
    states = list((tmp_path / "r" / "state").glob("step-*/optimizer.safetensors"))
    assert len(states) == 2
    for state in states:
        state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(newleaf.InputError, match="the checkpoint is damaged"):
        newleaf.resume(tmp_path / "r", quiet=True)


def test_a_text_that_changed_is_not_resumed_on(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(book.read_text("utf-8"), "utf-8")
    stop_after(11, monkeypatch)
    small(mine, tmp_path / "r", steps=30)
    mine.write_text(book.read_text("utf-8")[:-400], "utf-8")
    with pytest.raises(newleaf.InputError, match="its text is not what it was"):
        newleaf.resume(tmp_path / "r", quiet=True)


def test_run_yaml_says_everything(run: newleaf.Run) -> None:
    values = yaml.safe_load((run.path / "run.yaml").read_text("utf-8"))
    assert values["model"]["n_layer"] == 2
    assert values["train"]["threads"] >= 1
    assert values["train"]["precision"] in ("bf16", "fp32")
    assert values["tokenizer"]["vocab_size"] == 300
    assert set(values["record"]["fingerprints"]) == {"text", "tokenizer"}


def test_songs_in_chinese_train_and_read_back_as_valid_text(shared_data: Path, tmp_path: Path) -> None:
    text = tmp_path / "song.txt"
    text.write_text((shared_data / "text" / "songci_zh.txt").read_text("utf-8")[:60_000], "utf-8")
    found = small(text, tmp_path / "run", steps=40, tokenizer={"vocab_size": 2000}, train={"eval_every": 40})
    written = found.model.generate("明月", max_tokens=60, temperature=0.7, seed=1)
    songs = set(text.read_text("utf-8"))
    assert len(written) > 20
    assert set(written) <= songs  # 40 steps teach little more than which characters there are
    assert any("\u4e00" <= letter <= "\u9fff" for letter in written)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ctrl-C were pressed during this step."""
    from newleaf.train.loop.session import Session

    monkeypatch.setattr(Session, "stop_requested", lambda session: session.state.step >= step)


def losses(run: newleaf.Run) -> list[float]:
    return [line["loss"] for line in run.metrics if "loss" in line]


def weights(run: newleaf.Run) -> dict[str, bytes]:
    tensors = load_file(max((run.path / "state").glob("step-*")) / "optimizer.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
