"""The state of a run that saving, resuming and going back share, and the keys that older checkpoints have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from killed_runs import OPTIONS, finish, outcome

import newleaf
from newleaf.storage.atomic_write import file_digest
from newleaf.train.loop.run_state import RunState
from newleaf.train.loop.session import Session

AN_OLD_STATE = {
    "step": 15,
    "tokens": 1920,
    "train_seconds": 1.5,
    "total_seconds": 2.5,
    "progress": 0.625,
    "best": {"step": 12, "val_loss": 5.5},
    "checks_without_gain": 1,
    "check_pending": False,
}


def test_a_state_survives_its_checkpoint() -> None:
    best, unsaved = {"step": 12.0, "val_loss": 5.5}, {"step": 15.0, "val_loss": 5.0}
    state = RunState(15, 1920, 1.5, 2.5, 0.625, best, unsaved, unsaved, 1, True)
    restored = RunState()
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored == state


def test_a_state_without_a_best_validation_takes_the_saved_weights_for_it() -> None:
    state = RunState()
    state.load_state_dict(AN_OLD_STATE)
    assert state.lowest == state.best == {"step": 12, "val_loss": 5.5}
    assert state.unsaved is None
    state.load_state_dict(AN_OLD_STATE | {"unwritten": {"step": 15, "val_loss": 5.0}})
    assert state.lowest == state.unsaved == {"step": 15, "val_loss": 5.0}


def test_going_back_keeps_the_time_that_was_spent_and_the_best_model() -> None:
    state, earlier = RunState(20, 2560, 3.0, 1.0, 0.8, {"step": 18}, {"step": 18}), RunState()
    earlier.load_state_dict(AN_OLD_STATE)
    state.rewind(earlier)
    assert state == RunState(15, 1920, 3.0, 1.0, 0.625, {"step": 18}, {"step": 18})


def test_a_run_resumes_bit_for_bit_from_the_checkpoint_of_an_older_release(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by hand: all values that such a checkpoint has, under the keys they had, and none that came
    later."""
    finish(book, tmp_path / "uninterrupted", OPTIONS)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 15)
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    checkpoint = tmp_path / "run" / "state" / "step-00000015"
    written = json.loads((checkpoint / "state.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validations = [line for line in lines if "val_loss" in line and line["step"] <= 12]
    best = {name: validations[-1][name] for name in ("step", "val_loss", "val_bits_per_byte")}
    old = AN_OLD_STATE | {
        "best": best,
        "checks_without_gain": 0,
        "windows": 8,
        "micro_batch_size": written["micro_batch_size"],
        "health": {"skipped": 0, "in_a_row": 0, "spikes": 0, "restored": 0, "rate_scale": 1.0},
        "metrics_bytes": written["metrics_bytes"],
    }
    assert {name: written[name] for name in ("step", "tokens", "progress", "best")} == {
        name: old[name] for name in ("step", "tokens", "progress", "best")
    }
    (checkpoint / "state.json").write_text(json.dumps(old), "utf-8")
    digests = json.loads((checkpoint / "digests.json").read_text("utf-8"))
    digests["state.json"] = file_digest(checkpoint / "state.json")
    (checkpoint / "digests.json").write_text(json.dumps(digests), "utf-8")
    newleaf.resume(tmp_path / "run", quiet=True)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "uninterrupted")
