"""What a run says of itself at its end: which step its model is of, what the figure means, what would help,
what to type."""

from __future__ import annotations

import json
import lzma
import math
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killed_runs import OPTIONS, RecordingMonitor, options

import newleaf
from newleaf.cli.main import main, parse
from newleaf.train.pretraining.text_evaluator import TextEvaluator
from newleaf.train.runs.run_diagnosis import diagnose, diagnosis_lines, improving_command, validation_curve

MADE = {"text_bytes": 300_000, "train_tokens": 100_000, "xz_bits_per_byte": 2.5, "unigram_bits_per_byte": 4.5}
CONFIG: dict[str, Any] = {
    "source": ["/texts/book.txt"],
    "record": MADE,
    "train": {"steps": 100},
    "model": {"n_embd": 128},
}


def curve(*figures: float, training: float = 1.0) -> list[dict[str, Any]]:
    """A validation after each ten steps, in bits per byte; the training loss is that share of the last of
    them."""
    lines: list[dict[str, Any]] = []
    for number, bits in enumerate(figures, start=1):
        lines.append({"step": 10 * number, "loss": training * figures[-1] * math.log(2) * 3, "factor": 1.0})
        lines.append({"step": 10 * number, "val_loss": bits, "val_bits_per_byte": bits, "val_windows": 8})
    return lines


def summary(metrics: list[dict[str, Any]], epochs: float, **more: Any) -> dict[str, Any]:
    looks = validation_curve(metrics, "val_bits_per_byte")
    assert looks is not None
    found = {
        "finished": True,
        "val_bits_per_byte": looks.best,
        "best_step": looks.best_step,
        "steps": looks.last_step,
    }
    return found | {"tokens_seen": epochs * 100_000, "total_seconds": 60.0} | more


@pytest.mark.parametrize(
    ("figures", "training", "epochs", "advice"),
    [
        ((3.0, 2.5, 2.2, 2.0, 1.9, 1.85, 1.8, 1.75, 1.7, 1.65), 1.0, 0.5, "longer"),
        ((3.0, 2.5, 2.2, 2.1, 2.05, 2.01, 2.005, 2.002, 2.001, 2.0), 1.0, 0.5, "larger"),
        ((3.0, 2.5, 2.2, 2.0, 1.9, 1.95, 2.05, 2.1, 2.2, 2.3), 0.5, 20.0, "text"),
        ((3.0, 2.5, 2.2, 2.1, 2.05, 2.01, 2.005, 2.002, 2.001, 2.0), 0.6, 20.0, "text"),
    ],
)
def test_what_would_help_follows_from_the_curve(
    figures: tuple[float, ...], training: float, epochs: float, advice: str
) -> None:
    metrics = curve(*figures, training=training)
    found = diagnose(CONFIG, summary(metrics, epochs), metrics)
    assert found is not None
    assert found.advice == advice
    assert found.gap == pytest.approx(1 - training)
    text = "\n".join(diagnosis_lines(Path("r"), CONFIG, summary(metrics, epochs), metrics))
    assert {"longer": "longer: ", "larger": "a larger model", "text": "more text: "}[advice] in text


def test_a_run_that_overfits_says_since_when_and_which_step_its_model_is_of() -> None:
    metrics = curve(3.0, 2.5, 2.0, 2.1, 2.3)
    lines = diagnosis_lines(Path("r"), CONFIG, summary(metrics, 9.0), metrics)
    (line,) = [each for each in lines if each.strip().startswith("model/")]
    assert (
        "of step 30, the best; it began to overfit at step 30: validation rose from 2.000 to 2.300 at 50"
        in line
    )
    last = diagnosis_lines(
        Path("r"), CONFIG | {"train": {"keep": "last"}}, summary(metrics, 9.0, best_step=50), metrics
    )
    assert any(
        "of step 50, the last, as --train.keep last asks; it began to overfit at step 30" in each
        for each in last
    )


@pytest.mark.parametrize("steps", [(1,), (183, 187, 205)])
def test_late_validations_alone_do_not_tell_that_it_stopped_falling(steps: tuple[int, ...]) -> None:
    figures = zip(steps, (2.190, 2.189, 2.177), strict=False)
    metrics = [
        {"step": step, "val_loss": bits, "val_bits_per_byte": bits, "loss": 4.2} for step, bits in figures
    ]
    text = "\n".join(diagnosis_lines(Path("r"), CONFIG, summary(metrics, 2.0, steps=steps[-1]), metrics))
    assert "longer: it was validated too few times to tell whether it still gets better" in text
    assert "--resume r --steps" in text
    assert f"after {steps[-1]} step{'s' * (steps[-1] > 1)} and" in text


def test_noise_is_no_overfitting() -> None:
    looks = validation_curve(curve(3.0, 2.5, 2.0, 2.004), "val_bits_per_byte")
    assert looks is not None
    assert not looks.overfits
    rising = validation_curve(
        [
            {"step": 1, "val_accuracy": 0.5},
            {"step": 2, "val_accuracy": 0.9},
            {"step": 3, "val_accuracy": 0.7},
        ],
        "val_accuracy",
        True,
    )
    assert rising is not None
    assert (rising.best_step, rising.overfits) == (2, True)


@pytest.mark.parametrize("advice", ["longer", "larger", "text"])
@pytest.mark.parametrize("length", [{"steps": 100}, {"time": "3m"}])
def test_the_next_command_is_one_that_newleaf_takes(advice: Any, length: dict[str, Any]) -> None:
    command = improving_command(
        Path("runs/my book"), CONFIG | {"train": length}, {"steps": 100, "total_seconds": 181.0}, advice
    )
    words = shlex.split(command)
    assert words[0] == "newleaf"
    assert parse(words[1:]).name == "pretrain"


def test_the_figure_stands_beside_what_xz_and_counting_bytes_make_of_the_same_text(
    book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both computed here from the file itself."""
    text = book.read_text("utf-8")
    held_out = text[int(0.95 * len(text)) :].encode()
    xz = 8 * len(lzma.compress(held_out)) / len(held_out)
    unigram = -sum(
        count / len(held_out) * math.log2(count / len(held_out)) for count in Counter(held_out).values()
    )
    words = [
        "--model.n_layer",
        "1",
        "--model.n_embd",
        "32",
        "--model.n_head",
        "1",
        "--model.context_length",
        "32",
        "--train.batch_size",
        "4",
    ]
    words += ["--tokenizer.vocab_size", "300", "--train.eval_windows", "8", "--train.sample.max_tokens", "3"]
    assert main(["pretrain", str(book), "--steps", "12", "--out", str(tmp_path / "run"), *words]) == 0
    shown = capsys.readouterr()
    assert f"xz takes {xz:.3f} for the same text, and counting its single bytes {unigram:.3f}" in shown.out
    assert "(lower is better)" in shown.out
    assert "(a sample: 8 of " in shown.err, "the figures on the way are of a sample"
    assert (
        "on all held-out text that is used; what was shown on the way is of a sample of 8 windows"
        in shown.out
    )
    command = next(
        line for line in shown.out.splitlines() if line.strip().startswith("make it better")
    ).split("better", 1)[1]
    assert parse(shlex.split(command)[1:]).name == "pretrain"


def overfitting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look finds a figure that is worse than the one before, the same over a sample and over all."""
    calls: list[int] = []

    def validate(self: TextEvaluator, rows: int | None, to_the_end: bool = False) -> dict[str, float]:
        calls.append(len(calls))
        return {"val_loss": 2.0 + len(calls) / 10, "val_bits_per_byte": 1.0 + len(calls) / 10}

    monkeypatch.setattr(TextEvaluator, "validate", validate)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_model_holds_the_best_or_the_last_as_asked(
    keep: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overfitting(monkeypatch)
    run = newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **options(train={"keep": keep}))
    from safetensors.torch import load_file

    state = load_file(run.path / "state" / "step-00000024" / "optimizer.safetensors")
    embedding = load_file(run.path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    is_last = any(
        tensor.shape == embedding.shape and bool((tensor == embedding).all()) for tensor in state.values()
    )
    assert is_last == (keep == "last")
    assert run.summary["best_step"] == {"best": 6, "last": 24}[keep]
    assert run.config["train"]["keep"] == keep
    assert main(["info", str(run.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model_holds"].startswith(f"of step {run.summary['best_step']}, the {keep}")
    assert "it began to overfit at step 6: validation rose from 1.100 to 1.400" in found["model_holds"]
    assert (found["bits_per_byte_of_best_check"], found["bits_per_byte_of_last_check"]) == (1.1, 1.4)


def test_patience_counts_from_the_best_figure_also_where_the_last_is_kept(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overfitting(monkeypatch)
    run = newleaf.pretrain(
        book, out=tmp_path / "run", quiet=True, **options(train={"keep": "last", "patience": 2})
    )
    assert (run.summary["steps"], run.summary["best_step"], run.summary["stopped_early"]) == (18, 18, True)


def test_a_tuned_run_keeps_its_last_step_where_that_is_asked(book: Path, tmp_path: Path) -> None:
    base = newleaf.pretrain(book, out=tmp_path / "base", quiet=True, **OPTIONS).path
    heard = RecordingMonitor()
    train = {"keep": "last", "eval_every": 2}
    run = newleaf.finetune(
        base,
        book,
        task="text",
        steps=4,
        out=tmp_path / "tuned",
        monitor=heard,
        train=train,
        optimizer={"learning_rate": 0.5},
    )
    assert run.summary["best_step"] == 4


def test_a_timed_run_of_one_step_says_why_and_how_long_would_be_enough() -> None:
    metrics = [{"step": 1, "loss": 5.0}, {"step": 1, "val_bits_per_byte": 3.0, "val_windows": 8}]
    figures = summary(metrics, 0.01, steps=1, train_seconds=9.0, total_seconds=14.0)
    config = CONFIG | {"train": {"time": "12s"}}
    text = "\n".join(diagnosis_lines(Path("r"), config, figures, metrics))
    assert (
        "12s were enough for 1 step only, and that took 9 s: the time is short for this model and data, or "
        "other programs" in text
    )
    assert "what helps" not in text
    assert "make it better  newleaf pretrain --resume r --time 16m" in text
    assert "busy" not in "\n".join(diagnosis_lines(Path("r"), CONFIG, figures, metrics))
