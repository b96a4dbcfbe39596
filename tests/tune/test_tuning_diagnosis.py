"""How a run of tuning ends: what its figure means, the baseline beside it, and what to try where it learned
nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from base_models import make_base, opinions, write_rows

import newleaf
from newleaf.tune.terminal_summary import summary_text
from newleaf.tune.tuning_diagnosis import describe_score

ADAMW = {"kind": "adamw", "learning_rate": 0.001}
LENGTH = {"finished": True, "steps": 120, "tokens_seen": 9000, "total_seconds": 12.0}


def labels(score: float, words: float, majority: float = 0.5) -> dict[str, Any]:
    baselines = {"commonest label": {"accuracy": majority}, "tf-idf words": {"accuracy": words}}
    report = {"rows": "validation", "n": 60, "accuracy": score}
    return {**LENGTH, "val_accuracy": score, "val_loss": 0.69, "report": report, "baselines": baselines}


def said(summary: dict[str, Any], *metrics: dict[str, Any], **config: Any) -> str:
    found = {
        "task": "classify",
        "model": "runs/book",
        "source": ["my reviews.csv"],
        "optimizer": ADAMW,
        "train": {"epochs": 3},
    } | config
    return "\n".join(describe_score(Path("runs/reviews"), found, summary, list(metrics)))


@pytest.mark.parametrize(
    ("score", "words", "expected"),
    [
        (0.5, 1.0, "no better than giving every row the commonest label"),
        (0.8, 1.0, "below tf-idf words with logistic regression, which takes seconds (1.000)"),
    ],
)
def test_a_classifier_below_a_baseline_says_so_and_what_to_try(
    score: float, words: float, expected: str
) -> None:
    text = said(labels(score, words), {"step": 0, "val_accuracy": 0.5, "val_loss": 0.7})
    assert expected in text
    assert "a higher rate (--optimizer.learning_rate 0.003; --sweep finds one)" in text
    assert (
        "newleaf finetune runs/book 'my reviews.csv' --task classify --steps 360 --sweep --out runs/reviews-2"
        in text
    )


def test_a_classifier_above_the_baselines_has_them_beside_it() -> None:
    text = said(
        labels(0.95, 0.9),
        {"step": 0, "val_accuracy": 0.5},
        {"step": 60, "val_accuracy": 0.9},
        {"step": 120, "val_accuracy": 0.95},
    )
    assert (
        "0.950 of held-out rows are right (accuracy: higher is better, 1 is all of them); 0.500 before"
        in text
    )
    assert "beside it       commonest label 0.500, tf-idf words 0.900" in text
    assert text.count("0.950") == 1
    tested = labels(0.95, 0.9)
    tested["report"] |= {"rows": "test", "n": 1, "accuracy": 0.93}
    assert "accuracy on 1 test row: 0.930; commonest label 0.500, tf-idf words 0.900" in said(tested)
    assert "note" not in text
    assert "newleaf finetune --resume runs/reviews --steps 240" in text


@pytest.mark.parametrize("task", ["text", "chat", "distil", "preference"])
def test_a_loss_that_barely_moved_is_told(task: str) -> None:
    summary = {**LENGTH, "steps": 12, "val_loss": 2.0671}
    muon = {"kind": "muon", "learning_rate": 0.002, "matrix_learning_rate": 0.01}
    text = said(summary, {"step": 0, "val_loss": 2.0678}, task=task, optimizer=muon)
    assert "barely moved (2.068 before, 2.067 after)" in text
    assert "more steps than 12" in text
    assert (
        "--optimizer.kind muon --optimizer.learning_rate 0.006 --optimizer.matrix_learning_rate 0.03" in text
    )
    assert "barely" not in said(summary | {"val_loss": 1.5}, {"step": 0, "val_loss": 2.0678}, task=task)


def test_a_run_that_began_to_overfit_wants_more_rows() -> None:
    looks = [{"step": step, "val_loss": loss} for step, loss in ((0, 3.0), (40, 1.0), (80, 1.2), (120, 1.4))]
    text = said({**LENGTH, "val_loss": 1.0}, *looks, task="chat")
    assert "it was best at step 40 (1.000) and at 1.400 at its end" in text
    assert "newleaf finetune runs/book 'my reviews.csv' --task chat --steps 40 --out runs/reviews-2" in text
    assert "--resume" not in text


def test_nothing_is_to_be_made_better_where_every_row_is_right() -> None:
    rows = [
        {"step": step, "val_accuracy": score}
        for step, score in ((0, 0.5), (40, 1.0), (80, 0.85), (120, 0.85))
    ]
    text = said(labels(1.0, 1.0), *rows)
    assert "every held-out row is right" in text
    assert "make it better" not in text
    assert "overfit" not in text
    assert "fewer epochs" not in text


def test_two_late_validations_do_not_tell_that_it_stopped_getting_better() -> None:
    rows = [{"step": step, "val_loss": loss} for step, loss in ((0, 3.0), (110, 1.002), (120, 1.0))]
    text = said({**LENGTH, "val_loss": 1.0}, *rows[1:], task="chat")
    assert "longer: it was validated too few times to tell" in text
    assert "almost stopped" not in text


def test_a_figure_of_answers_is_named() -> None:
    text = said(
        {**LENGTH, "val_bleu": 21.5, "val_loss": 1.0},
        {"step": 0, "val_bleu": 0.1, "val_loss": 3.0},
        task="chat",
    )
    assert "21.500 bleu of answers to held-out questions (higher is better); 0.100 before" in text


def test_the_command_ends_with_the_verdict_and_where_answers_are_few_with_their_number(
    tmp_path: Path,
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", opinions())
    tiny = {"kind": "adamw", "learning_rate": 1e-9}
    run = newleaf.finetune(
        make_base(tmp_path / "base"),
        rows,
        task="classify",
        out=tmp_path / "run",
        steps=2,
        quiet=True,
        optimizer=tiny,
        train={"threads": 1},
    )
    text = summary_text(run.path, run.config, run.summary, run.metrics)
    assert "note " in text
    assert "--sweep" in text
    part = summary_text(
        run.path, run.config, run.summary | {"measured_on": {"rows": 2, "of": 4}}, run.metrics
    )
    assert "the same 2 of 4 held-out rows" in part


@pytest.mark.parametrize(
    ("steps", "words"),
    [(0, "60s were enough for 0 steps only: "), (1, "60s were enough for 1 step only, and that took 30 s: ")],
)
def test_a_timed_run_of_a_step_or_none_says_that_the_machine_was_busy_or_the_time_short(
    steps: int, words: str
) -> None:
    """And what to do: with 30 s a step, 100 steps and the 55 s of this run are 51 minutes."""
    summary = {**labels(0.5, 0.9), "steps": steps, "train_seconds": 30.0 * steps, "total_seconds": 55.0}
    text = said(summary, train={"time": "60s"})
    assert words in text
    assert (
        "other programs kept the machine busy. Run it when the machine is idle, with a longer --time, or "
        "with a smaller model" in text
    )
    assert f"newleaf finetune --resume runs/reviews --time {'51m' if steps else '2m'}" in text
    assert "busy" not in said(summary | {"steps": 2}, train={"time": "60s"})
    assert "busy" not in said(summary, train={"steps": steps})


def test_a_classifiers_scores_stand_once_above_the_baselines_of_the_same_rows(tmp_path: Path) -> None:
    base, rows = make_base(tmp_path / "base"), write_rows(tmp_path / "rows.jsonl", opinions())
    options: dict[str, Any] = {"task": "classify", "steps": 1, "quiet": True, "train": {"threads": 1}}
    run = newleaf.finetune(base, rows, out=tmp_path / "run", **options)
    text = summary_text(run.path, run.config, run.summary, run.metrics)
    assert [line.split()[:1] for line in text.splitlines()].count(["accuracy"]) == 1
    assert "this model" not in text
    assert "4 validation rows" in text
    assert "commonest label" in text
    assert "is \\ taken for" in text
    assert "1 step and" in text
    tested = newleaf.finetune(base, rows, out=tmp_path / "tested", data={"test": str(rows)}, **options)
    text = summary_text(tested.path, tested.config, tested.summary, tested.metrics)
    assert "40 test rows" in text
    assert "this model" in text
