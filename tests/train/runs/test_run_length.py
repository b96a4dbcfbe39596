"""Runs that go on beyond the end they were begun with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from killed_runs import OPTIONS, RecordingMonitor, options, outcome

import newleaf
from newleaf.cli.main import main
from newleaf.train.objective.schedule import ClockSchedule, ScheduleShape
from newleaf.train.objective.train_config import Extension, TrainConfig
from newleaf.train.runs.run_history import read_run
from newleaf.train.runs.run_length import StepSize, build_schedule

EXACT = {"train": {"precision": "fp32"}}


@pytest.fixture(scope="module")
def whole(book: Path, tmp_path_factory: pytest.TempPathFactory) -> newleaf.Run:
    """24 steps, finished."""
    return newleaf.pretrain(book, out=tmp_path_factory.mktemp("whole") / "run", quiet=True, **OPTIONS)


@pytest.fixture
def run(whole: newleaf.Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole.path, tmp_path / "run"))


def steps(run: Path | newleaf.Run) -> list[dict[str, Any]]:
    return [
        line
        for line in newleaf.Run(run.path if isinstance(run, newleaf.Run) else run).metrics
        if "factor" in line
    ]


def test_a_finished_run_goes_on_to_more_steps_and_says_how_its_rate_goes(
    whole: newleaf.Run, run: Path
) -> None:
    heard = RecordingMonitor()
    longer = newleaf.resume(run, steps=48, monitor=heard)
    assert (longer.summary["steps"], longer.summary["resumed_from_step"], longer.summary["finished"]) == (
        48,
        24,
        True,
    )
    assert longer.summary["tokens_seen"] == 2 * whole.summary["tokens_seen"]
    assert [line["step"] for line in steps(run)] == list(range(1, 49))
    assert [line["loss"] for line in steps(run)][:24] == [line["loss"] for line in steps(whole)]
    (line,) = heard.about("Goes on from step 24 to 48 steps in all")
    assert "The learning rate warms up again" in line
    assert "\n" not in line


def test_the_rate_warms_up_from_where_it_was_holds_and_decays_anew() -> None:
    """By hand: 100 steps that ended at 0, then 200 more, of which 20 warm up, 80 hold and 100 decay."""
    train = TrainConfig(
        steps=100,
        batch_size=1,
        schedule=ScheduleShape(warmup=0.1, decay=0.5),
        extended=(Extension(100, 0.0, steps=300),),
    )
    schedule = build_schedule(train, StepSize(1, 1.0, 1000), lambda *_: pytest.fail("no clock is asked"))
    assert schedule.factor(99) == pytest.approx(0.5 / 50)
    assert schedule.factor(100) == pytest.approx(0.5 / 20)
    assert schedule.factor(110) == pytest.approx(10.5 / 20)
    assert schedule.factor(121) == schedule.factor(199) == 1.0
    assert schedule.factor(299) == pytest.approx(0.5 / 100)
    assert (
        schedule.progress(50),
        schedule.progress(100),
        schedule.progress(200),
        schedule.progress(300),
    ) == (0.5, 0.0, 0.5, 1.0)


def test_a_run_that_was_stopped_while_its_rate_held_stays_at_the_peak(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 9)
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    heard = RecordingMonitor()
    newleaf.resume(tmp_path / "run", steps=40, monitor=heard)
    assert heard.about("The learning rate stays at its peak, and decays")
    factors = [line["factor"] for line in steps(tmp_path / "run")]
    assert factors[8:24] == [1.0] * 16
    assert factors[-1] < 0.1
    checks = [line["step"] for line in newleaf.Run(tmp_path / "run").metrics if "val_windows" in line]
    assert checks[:3] == [6, 9, 12], "each part ends with a validation"


def test_an_extended_run_that_is_stopped_and_resumed_is_the_same_bit_for_bit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    other = Path(shutil.copytree(run, tmp_path / "other"))
    newleaf.resume(run, steps=40, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 31)
        newleaf.resume(other, steps=40, quiet=True)
    assert read_run(other).state == "stopped"
    newleaf.resume(other, quiet=True)
    assert outcome(other) == outcome(run)


def test_an_extended_run_is_repeated_from_its_run_yaml(run: Path, tmp_path: Path) -> None:
    newleaf.resume(run, steps=40, quiet=True)
    again = newleaf.pretrain(out=tmp_path / "again", config=run / "run.yaml", quiet=True)
    first, second = outcome(run), outcome(again.path)
    assert second["metrics"] == first["metrics"]
    assert (second["weights"], second["state"]) == (first["weights"], first["state"])


@pytest.mark.parametrize(
    ("length", "expected"), [({"tokens": "4k"}, 32), ({"epochs": 0.1}, None), ({"steps": "30"}, 30)]
)
def test_tokens_and_epochs_are_of_the_whole_run(
    length: dict[str, Any], expected: int | None, run: Path
) -> None:
    longer = newleaf.resume(run, quiet=True, **length)
    made = newleaf.Run(run).config["record"]["train_tokens"]
    assert longer.summary["steps"] == expected or longer.summary["steps"] == pytest.approx(
        0.1 * made / 32 / 4, abs=1
    )


def test_more_time_is_time_of_the_command_that_goes_on(run: Path) -> None:
    """The clock is handed in: each step takes a second, by which 90 s are done after at most 90 steps."""
    now = [100.0]
    train = TrainConfig(steps=24, batch_size=1, extended=(Extension(24, 0.0, before=50.0, time="90s"),))
    schedule = build_schedule(
        train, StepSize(1, 1.0, 1000), lambda length, shape: ClockSchedule(length, shape, 0.0, lambda: now[0])
    )
    assert (schedule.progress(24), schedule.factor(24)) == (0.0, pytest.approx(0.05, abs=0.05))
    now[0] += 45
    assert schedule.progress(60) == 0.5
    now[0] += 45
    assert schedule.progress(99) == 1.0
    newleaf.resume(run, time="6s", quiet=True)
    values = yaml.safe_load((run / "run.yaml").read_text())
    assert values["train"]["replay"] == "metrics.jsonl", "whoever repeats it takes the recorded steps"
    assert newleaf.Run(run).summary["steps"] > 24


def test_a_second_extension_goes_on_from_the_first(run: Path) -> None:
    newleaf.resume(run, steps=30, quiet=True)
    newleaf.resume(run, steps=36, quiet=True)
    assert newleaf.Run(run).summary["steps"] == 36
    assert [each["step"] for each in newleaf.Run(run).config["train"]["extended"]] == [24, 30]


def test_a_kill_while_an_extension_begins_loses_neither_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    def killed(session: Session, found: object) -> None:
        raise RuntimeError("as good as a kill")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "restore", killed)
        with pytest.raises(RuntimeError):
            newleaf.resume(run, steps=30, quiet=True)
    assert read_run(run).state != "finished"
    assert newleaf.resume(run, quiet=True).summary["steps"] == 30


def test_a_length_that_is_over_already_is_refused_and_changes_nothing(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for length, message in (
        ({"steps": 24}, "steps: 24 makes a run of 24 steps, and this one has taken 24"),
        ({"tokens": 100}, "tokens: 100 "),
    ):
        with pytest.raises(newleaf.InputError, match=message):
            newleaf.resume(run, quiet=True, **length)
    with pytest.raises(newleaf.InputError, match="steps: must be"):
        newleaf.resume(run, quiet=True, steps="many")
    with pytest.raises(newleaf.InputError, match="one length"):
        newleaf.resume(run, quiet=True, steps=40, time="3s")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    "words",
    ["--size 4x64", "--seed 3", "--threads 2", "--out x", "--overwrite", "--config a.yaml", "--track wandb",
    "--device cpu",
     "--train.batch_size 8", "--optimizer.learning_rate 1e-3"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_every_other_option_is_refused_by_its_own_name(
    command: str, words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "finetune" and "--size" in words:
        words = "--task text"
    assert main([command, "--resume", str(run), *words.split()]) == 2
    assert f"newleaf: {words.split()[0]}: does not go with --resume" in capsys.readouterr().err


def test_a_source_is_refused_by_its_name_and_python_refuses_as_well(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "book.txt", "--resume", str(run)]) == 2
    assert "book.txt: does not go with --resume" in capsys.readouterr().err
    for name, value in (("seed", 3), ("train", {"batch_size": 2}), ("out", "x")):
        with pytest.raises(newleaf.InputError, match=f"^{name}: "):
            newleaf.resume(run, quiet=True, **{name: value})


def test_tuned_runs_go_on_too(run: Path, book: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    newleaf.finetune(run, book, task="text", steps=4, out=out, quiet=True)
    assert main(["finetune", "--resume", str(out), "--steps", "8", "--quiet"]) == 0
    assert json.loads((out / "summary.json").read_text())["steps"] == 8
    assert options(steps=8)["steps"] == 8
