"""A timed run takes as much of its text as the machine has time for: once, when it begins, and the same
whenever it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from killed_runs import OPTIONS

import newleaf
from newleaf.train.loop.session import Session
from newleaf.train.pretraining.text_objective import TextObjective

# FLOP/s of a machine that has time for all of the text, and of one that has time for what it can encode
FAST, SLOW = 1e12, 1.0
SECONDS = 3600  # which no test waits for: it stops after some steps
ENCODED = 50  # bytes a second that are encoded
TIMED = {name: value for name, value in OPTIONS.items() if name != "steps"} | {
    "time": f"{SECONDS}s",
    "quiet": True,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than a slow machine encodes."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n} times {n % 97} is {n * (n % 97)}.\n" for n in range(14_000)))
    assert path.stat().st_size > 1.2 * ENCODED * SECONDS
    return path


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newleaf.train.size_from_budget.ENCODED_BYTES_PER_SECOND", ENCODED)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What each start of a run trains on, is measured on, and its tokenizer, by fingerprints."""
    found: list[tuple[str, str, str]] = []
    batches = TextObjective.batches

    def noted(objective: TextObjective, share: tuple[int, int]) -> Any:
        prepared = objective.prepared
        found.append(
            (prepared.train.fingerprint, prepared.validation.fingerprint, prepared.tokenizer.fingerprint)
        )
        return batches(objective, share)

    monkeypatch.setattr(TextObjective, "batches", noted)
    return found


def stopped_and_resumed(
    monkeypatch: pytest.MonkeyPatch, speeds: tuple[float, float], out: Path, begin: Any, edit: Any = None
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("newleaf.train.pretraining.prepare_pretraining.matmul_speed", lambda *_: speeds[0])
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 7)
        begin()
    if edit is not None:
        values = yaml.safe_load((out / "run.yaml").read_text())
        edit(values)
        (out / "run.yaml").write_text(yaml.safe_dump(values))
    with monkeypatch.context() as patch:
        patch.setattr("newleaf.train.pretraining.prepare_pretraining.matmul_speed", lambda *_: speeds[1])
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 9)
        assert newleaf.resume(out, quiet=True).summary["resumed_from_step"] == 7


@pytest.mark.parametrize("speeds", [(FAST, SLOW), (SLOW, FAST), (FAST, FAST)])
def test_a_timed_run_that_goes_on_on_a_slower_or_faster_machine_reads_the_same_text(
    speeds: tuple[float, float], text: Path, read: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_and_resumed(
        monkeypatch, speeds, tmp_path / "run", lambda: newleaf.pretrain(text, out=tmp_path / "run", **TIMED)
    )
    assert len(read) == 2
    assert read[0] == read[1]


def test_so_does_a_timed_run_of_tuning(
    text: Path, read: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = newleaf.pretrain(text, out=tmp_path / "base", quiet=True, **OPTIONS).path
    tuned = {"task": "text", "time": f"{SECONDS}s", "train": {"batch_size": 4}, "quiet": True}
    stopped_and_resumed(
        monkeypatch,
        (FAST, SLOW),
        tmp_path / "run",
        lambda: newleaf.finetune(base, text, out=tmp_path / "run", **tuned),
    )
    assert read[1] == read[2]


def test_a_run_yaml_that_limits_nothing_is_of_a_run_that_took_all(
    text: Path, read: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions wrote it, and tuning by several processes."""

    def older(values: dict[str, Any]) -> None:
        values["data"] |= {"train_bytes": None, "validation_bytes": None}

    stopped_and_resumed(
        monkeypatch,
        (FAST, SLOW),
        tmp_path / "run",
        lambda: newleaf.pretrain(text, out=tmp_path / "run", **TIMED),
        older,
    )
    assert read[0] == read[1]


def test_what_a_timed_run_takes_stands_in_run_yaml(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "stop_requested", lambda session: session.state.step >= 1)
    found = []
    for speed in (FAST, SLOW):
        monkeypatch.setattr(
            "newleaf.train.pretraining.prepare_pretraining.matmul_speed", lambda *_, speed=speed: speed
        )
        run = newleaf.pretrain(text, out=tmp_path / f"{speed}", **TIMED)
        found.append(run.config["data"]["train_bytes"])
        assert isinstance(run.config["tokenizer"]["train_bytes"], int)
    assert found == ["all", ENCODED * SECONDS]


def test_all_of_a_text_can_be_asked_for(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newleaf.train.pretraining.prepare_pretraining.matmul_speed", lambda *_: SLOW)
    monkeypatch.setattr(Session, "stop_requested", lambda session: session.state.step >= 1)
    run = newleaf.pretrain(text, out=tmp_path / "run", data={"train_bytes": "all"}, **TIMED)
    assert run.config["record"]["text_bytes"] == pytest.approx(0.95 * text.stat().st_size, rel=0.01)
    with pytest.raises(newleaf.InputError, match=r"data.train_bytes: must be a whole number, not 'most'"):
        newleaf.pretrain(text, out=tmp_path / "other", data={"train_bytes": "most"}, **TIMED)
