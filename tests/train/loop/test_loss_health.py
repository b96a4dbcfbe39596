"""Losses that are not finite, losses that jump, validations that get no better."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import OPTIONS, RecordingMonitor, finish, options, outcome, start, wait_for

import newleaf
from newleaf.model import GPT
from newleaf.train.loop.loop import Loop
from newleaf.train.loop.loss_health import LossHealth
from newleaf.train.loop.optimizer import Optimizer
from newleaf.train.objective.optimizer_config import OptimizerConfig


def poison(bad: dict[int, int], what: str = "loss") -> None:
    """Make these steps' losses or gradients NaN, each for so many times that it is taken."""
    real = Loop._gradients

    def gradients(self: Loop, batch: Any) -> tuple[list[float], int]:
        loss, counted = real(self, batch)
        if bad.get(self.state.step + 1, 0) > 0:
            bad[self.state.step + 1] -= 1
            if what == "loss":
                return [math.nan], counted
            self.network.head.weight.grad[0, 0] = math.inf  # type: ignore[index]
        return loss, counted

    Loop._gradients = gradients  # type: ignore[method-assign]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Loop, "_gradients", Loop._gradients)  # so that it is put back
    return poison


def test_gradients_that_are_not_finite_change_neither_weights_nor_moments() -> None:
    torch.manual_seed(0)
    from newleaf.model import GPTConfig

    network = GPT(GPTConfig(50, 8, 1, 1, 16))
    optimizer = Optimizer(network, OptimizerConfig())
    ids = torch.randint(50, (2, 9))
    network.loss(ids[:, :8], ids[:, 1:]).backward()
    assert math.isfinite(optimizer.step(1.0))
    before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    network.loss(ids[:, :8], ids[:, 1:]).backward()
    network.blocks[0].attention.q.weight.grad[1, 1] = math.nan  # type: ignore[union-attr, index]
    assert math.isnan(optimizer.step(1.0))
    assert all(torch.equal(before[name], tensor) for name, tensor in optimizer.state().items())
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    what: str, poisoned: Any, book: Path, tmp_path: Path
) -> None:
    poisoned({7: 1, 15: 1}, what)
    heard = RecordingMonitor()
    run = newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **OPTIONS)
    skipped = [line for line in run.metrics if "skipped" in line]
    assert [line["step"] for line in skipped] == [7, 15]
    assert all(line["skipped"].startswith(f"{what} is ") for line in skipped)
    assert run.summary["skipped_steps"] == 2
    assert run.summary["restored"] == 0
    assert run.summary["finished"] is True
    assert math.isfinite(run.summary["val_loss"])
    assert len(heard.about("was skipped")) == 2
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_after_a_run_of_skipped_steps_the_last_checkpoint_is_restored_with_a_lower_rate(
    poisoned: Any, book: Path, tmp_path: Path
) -> None:
    """Poisoned once, steps 14 to 18 go back to the checkpoint of 12; from there all is as if the rate had
    been halved then."""
    poisoned(dict.fromkeys(range(14, 19), 1))
    heard = RecordingMonitor()
    run = newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **OPTIONS)
    assert heard.about("back to the checkpoint of step 12, with rates times 0.5")
    steps = [line for line in run.metrics if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 25))
    whole = newleaf.pretrain(book, out=tmp_path / "whole", quiet=True, **OPTIONS)
    factors = [line["factor"] for line in whole.metrics if "loss" in line]
    assert [line["factor"] for line in steps] == factors[:12] + [factor / 2 for factor in factors[12:]]
    assert [line for line in run.metrics if "restored_from" in line] == [
        {"step": 12, "restored_from": 18, "rate_scale": 0.5}
    ]
    assert (run.summary["skipped_steps"], run.summary["restored"]) == (5, 1)


def test_a_second_run_of_skipped_steps_stops_the_run_and_says_what_to_try(
    poisoned: Any, book: Path, tmp_path: Path
) -> None:
    poisoned(dict.fromkeys(range(3, 24), 9))
    heard = RecordingMonitor()
    with pytest.raises(
        newleaf.InputError,
        match=r"3 steps in a row up to 5 were skipped \(loss is nan\).*optimizer.learning_rate is 0.003",
    ):
        newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **options(train={"max_skipped": 3}))
    assert heard.about("back to the beginning, with rates times 0.5")  # there was no checkpoint yet


@pytest.mark.slow
def test_a_kill_before_or_after_a_checkpoint_was_restored_changes_nothing(book: Path, tmp_path: Path) -> None:
    """The poison hits every process afresh, as a text that breaks the network would; but not at the lower
    rate."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = start(book, whole, OPTIONS, poison_at_full_rate)
    process.join(60)
    assert process.exitcode == 0
    for step in (15, 20):
        process = start(book, run, OPTIONS, poison_at_full_rate)
        wait_for(run, step, process)
        process.kill()
        process.join()
    process = start(book, run, OPTIONS, poison_at_full_rate)
    process.join(60)
    assert process.exitcode == 0
    found = outcome(run)
    assert found["summary"]["restored"] == 1
    assert found == outcome(whole)


def poison_at_full_rate() -> None:
    import time

    real = Loop._gradients

    def gradients(self: Loop, batch: Any) -> tuple[list[float], int]:
        time.sleep(0.02)
        loss, counted = real(self, batch)
        return (
            ([math.nan], counted)
            if 14 <= self.state.step + 1 <= 18 and self.rate_scale == 1
            else (loss, counted)
        )

    Loop._gradients = gradients  # type: ignore[method-assign]


def test_a_spike_is_a_loss_six_robust_deviations_above_the_recent_median() -> None:
    """By hand: 2.00, 2.01, … 2.63 have the median 2.315 and the median absolute deviation 0.16; 2.315 + 6 ·
    1.4826 · 0.16 = 3.738."""
    losses = [2 + n / 100 for n in range(64)]
    for loss, spike in ((3.73, False), (3.75, True)):
        health = LossHealth()
        assert [health.update(value, False) for value in losses] == [False] * 64
        assert health.update(loss, False) is spike
        assert health.spikes == spike


def test_a_loss_that_falls_or_hardly_varies_or_has_just_begun_is_no_spike() -> None:
    health = LossHealth()
    assert not any(health.update(6 - 0.05 * step, False) for step in range(100))
    batch_invariant = LossHealth()
    assert not any(batch_invariant.update(value, False) for value in [1.0] * 40 + [1.04])
    assert batch_invariant.update(1.06, False)
    young = LossHealth()
    assert not any(young.update(value, False) for value in [1.0] * 15 + [50.0])


def test_spikes_are_marked_in_the_metrics_and_remembered_over_a_resume(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Loop._gradients

    def gradients(self: Loop, batch: Any) -> tuple[list[float], int]:
        loss, counted = real(self, batch)
        return ([loss[0] * 3] if self.state.step + 1 in (18, 22) else loss), counted

    from newleaf.train.loop.session import Session

    monkeypatch.setattr(Loop, "_gradients", gradients)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 21)
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    run = newleaf.resume(tmp_path / "run", quiet=True)
    assert [line["step"] for line in run.metrics if line.get("spike")] == [18, 22]
    assert run.summary["loss_spikes"] == 2


def test_without_a_better_validation_for_its_patience_a_run_ends_early_and_a_resumed_one_too(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate of nothing, so that the first validation stays the best: three of them, and it is over."""
    recipe = options(
        optimizer={"learning_rate": 1e-12, "matrix_learning_rate": 1e-12, "weight_decay": 0},
        train={"patience": 2},
    )
    run = newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **recipe)
    assert [line["step"] for line in run.metrics if "val_loss" in line] == [6, 12, 18]
    assert (run.summary["steps"], run.summary["stopped_early"], run.summary["finished"]) == (18, True, True)
    assert run.summary["best_step"] == 6
    from newleaf.train.loop.session import Session

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 14)
        newleaf.pretrain(book, out=tmp_path / "resumed", quiet=True, **recipe)
    newleaf.resume(tmp_path / "resumed", quiet=True)
    found, expected = outcome(tmp_path / "resumed"), outcome(run.path)
    # the checkpoint of the stop is one of the two that stay
    assert found.pop("files") != expected.pop("files")
    assert found == expected


def test_a_run_ends_early_only_when_asked(book: Path, tmp_path: Path) -> None:
    recipe = options(optimizer={"learning_rate": 1e-12, "matrix_learning_rate": 1e-12, "weight_decay": 0})
    finish(book, tmp_path / "run", recipe)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["stopped_early"]) == (24, False)
