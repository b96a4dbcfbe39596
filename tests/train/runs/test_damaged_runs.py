"""Runs whose files are damaged, lost, half replaced or could not be written: named in one line, made good
where that can be."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from killed_runs import OPTIONS, RecordingMonitor, options, outcome

import newleaf
from newleaf.cli.main import main
from newleaf.train.runs.run_folder import RunFolder
from newleaf.train.runs.run_history import read_run

SHORT = options(steps=6, train={"eval_every": 3})


@pytest.fixture(scope="module")
def whole(book: Path, tmp_path_factory: pytest.TempPathFactory) -> newleaf.Run:
    return newleaf.pretrain(book, out=tmp_path_factory.mktemp("whole") / "run", quiet=True, **OPTIONS)


@pytest.fixture
def run(whole: newleaf.Run, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(whole.path, tmp_path / "run"))


def flip(file: Path, at: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 0x10
    file.write_bytes(data)


class Killed(BaseException):
    """As good as kill -9: from then on nothing of the process touches the disk."""


@contextmanager
def killed_at(call: int) -> Iterator[list[int]]:
    """Kill just before the n-th time that something is flushed, renamed, written or removed; the calls are
    counted in the list."""
    count = [0]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] >= call:
                raise Killed
            return real(*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        for name in ("rename", "replace", "unlink", "mkdir", "write_text", "write_bytes"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        yield count


def begun_by_another(real: Callable[..., None], call: int) -> Callable[..., None]:
    def begin(folder: RunFolder, config: dict[str, Any]) -> None:
        with killed_at(call):
            real(folder, config)

    return begin


# --- A run that takes the place of another


def test_a_run_killed_at_any_point_of_replacing_another_is_never_taken_for_it(
    whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outcome(newleaf.pretrain(book, out=tmp_path / "expected", quiet=True, seed=7, **SHORT).path)
    real, call, kills = RunFolder.begin, 1, 0
    while True:
        run = Path(shutil.copytree(whole.path, tmp_path / f"run-{call}"))
        old = (run / "run.yaml").read_text()
        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(RunFolder, "begin", begun_by_another(real, call))
            newleaf.pretrain(book, out=run, quiet=True, overwrite=True, seed=7, **SHORT)
            break
        kills += 1
        assert_is_old_or_new(run, old)
        if (run / ".run.yaml.coming").exists():
            heard = RecordingMonitor()
            newleaf.resume(run, monitor=heard)
        else:  # nothing was replaced yet, or all was
            newleaf.resume(run, quiet=True)
        if (run / "run.yaml").read_text() != old:
            assert outcome(run) == expected, call
        call += 1
    assert kills > 10


def assert_is_old_or_new(run: Path, old: str) -> None:
    """Nothing of the earlier run stands under the new run.yaml, and the earlier one is finished only while it
    has its model."""
    if (run / "run.yaml").read_text() != old:
        assert not [name for name in ("summary.json", "model", "state") if (run / name).exists()]
        assert not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_bytes()
    elif read_run(run).state == "finished":
        assert newleaf.load(run).generate("a", max_tokens=1) is not None
        assert (run / "state").exists()


def test_what_was_begun_to_be_replaced_is_said_and_the_new_run_comes_of_it(
    whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(whole.path, tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "begin", begun_by_another(RunFolder.begin, 9))
        with pytest.raises(Killed):
            newleaf.pretrain(book, out=run, quiet=True, overwrite=True, seed=7, **SHORT)
    assert read_run(run).state != "finished"
    heard = RecordingMonitor()
    resumed = newleaf.resume(run, monitor=heard)
    assert heard.about("was being replaced by a new run when that was killed; the new run begins")
    assert (resumed.config["train"]["seed"], resumed.summary["steps"]) == (7, 6)
    assert not list(run.glob(".*"))


# --- A nearly full disk


@contextmanager
def no_room_for(name: str, during: range) -> Iterator[None]:
    """What is written as this folder does not fit on the disk while the loop has done these numbers of
    steps."""
    from newleaf.storage import atomic_write
    from newleaf.train.loop.session import Session

    session: list[Session] = []
    begin, flush = Session.train, atomic_write._flush

    def train(self: Session) -> None:
        session[:] = [self]
        begin(self)

    def refuse(path: Path) -> None:
        if session and session[0].state.step in during and f".{name}." in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "train", train)
        patch.setattr(atomic_write, "_flush", refuse)
        yield


@pytest.mark.parametrize("also", ["model", "step-00000024"])
def test_a_run_whose_best_weights_found_no_room_is_not_finished_and_resuming_completes_it(
    also: str, whole: newleaf.Run, book: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    unfinished = pytest.raises(
        newleaf.InputError,
        match=r"model/ of step 24 could not be written, so the run is not finished; free some",
    )
    with no_room_for("model", range(24, 25)), no_room_for(also, range(24, 25)), unfinished:
        newleaf.pretrain(book, out=run, quiet=True, **OPTIONS)
    assert json.loads((run / "summary.json").read_text())["finished"] is False
    assert read_run(run).state == "stopped"
    assert newleaf.load(run).generate("a", max_tokens=1) is not None
    newleaf.resume(run, quiet=True)
    assert outcome(run) == outcome(whole.path)


def test_weights_that_find_room_later_are_written_then(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 12 is the best of all; the disk has no room for its weights until after the check of step 18."""
    from newleaf.train.loop.session import Session
    from newleaf.train.pretraining.text_evaluator import TextEvaluator

    figures = {6: 3.0, 12: 1.0, 18: 2.0, 24: 2.5}
    real = Session.check

    def check(session: Session, step: int) -> bool:
        found = {"val_loss": figures[step], "val_bits_per_byte": figures[step]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TextEvaluator, "validate", lambda *_, **__: found)
            return real(session, step)

    monkeypatch.setattr(Session, "check", check)
    expected = newleaf.pretrain(book, out=tmp_path / "expected", quiet=True, **OPTIONS)
    heard = RecordingMonitor()
    with no_room_for("model", range(12, 19)):
        run = newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **OPTIONS)
    assert len(heard.about("the model of step 12 could not be written")) == 2
    assert run.summary["finished"] is True
    assert run.summary["best_step"] == 12
    assert outcome(run.path)["weights"] == outcome(expected.path)["weights"]


# --- The model


@pytest.mark.parametrize("how", ["damaged", "lost"])
def test_a_finished_run_whose_model_is_gone_gets_the_same_model_from_its_checkpoint(
    how: str, whole: newleaf.Run, run: Path
) -> None:
    weights = run / "model" / "model.safetensors"
    flip(weights, 0.8) if how == "damaged" else weights.unlink()
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    (line,) = heard.about("model.safetensors")
    assert "was made again from the checkpoint of step 24" in line
    assert outcome(run) == outcome(whole.path)


def test_without_a_checkpoint_a_lost_model_is_named(run: Path) -> None:
    shutil.rmtree(run / "state")
    (run / "model" / "model.safetensors").unlink()
    with pytest.raises(newleaf.InputError, match=r"model.safetensors is missing.* There is no checkpoint"):
        newleaf.resume(run, quiet=True)


def test_a_best_model_that_is_lost_while_the_run_is_stopped_gives_way_to_the_next(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 6 is the best, its checkpoint has gone with keep_checkpoints 1, and so has the model: the run ends
    all the same."""
    from newleaf.train.loop.session import Session
    from newleaf.train.pretraining.text_evaluator import TextEvaluator

    calls: list[int] = []

    def validate(self: TextEvaluator, rows: int | None, to_the_end: bool = False) -> dict[str, float]:
        calls.append(len(calls))
        return {"val_loss": 1.0 + len(calls), "val_bits_per_byte": 1.0 + len(calls)}

    monkeypatch.setattr(TextEvaluator, "validate", validate)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 18)
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **options(train={"keep_checkpoints": 1}))
    flip(tmp_path / "run" / "model" / "model.safetensors", 0.8)
    heard = RecordingMonitor()
    found = newleaf.resume(tmp_path / "run", monitor=heard)
    assert heard.about("The best model, of step 6, is lost; the best from 18 on takes its place.")
    assert found.summary["finished"] is True
    assert found.summary["best_step"] == 18
    assert found.model.generate("a", max_tokens=1) is not None


# --- metrics.jsonl


@pytest.mark.parametrize("damage", ["flipped", "shortened", "garbage"])
def test_damaged_metrics_are_kept_aside_and_named(
    damage: str, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from newleaf.train.loop.session import Session

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 15)
        newleaf.pretrain(book, out=run, quiet=True, **OPTIONS)
    file = run / "metrics.jsonl"
    before = file.read_bytes()
    lines = before.splitlines(keepends=True)
    if damage == "flipped":
        flip(file, 0.3)
    elif damage == "shortened":
        file.write_bytes(b"".join(lines[:9]))
    else:
        file.write_bytes(b"".join([*lines[:4], b"\x00\xff{]\n", *lines[5:]]))
    damaged = file.read_bytes()
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    (line,) = heard.about("metrics.jsonl is damaged")
    assert "it is kept as metrics.damaged.jsonl" in line
    assert (run / "metrics.damaged.jsonl").read_bytes() == damaged
    assert [each["step"] for each in newleaf.Run(run).metrics if "loss" in each][-9:] == list(range(16, 25))
    assert newleaf.Run(run).summary["finished"] is True


def test_damaged_lines_of_a_finished_run_are_passed_over_with_a_word_and_not_repeated_from(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[5] = b'{"step": 4, "loss"\n'
    lines[7] = b"[]\n"
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    assert len(newleaf.Run(run).metrics) == len(lines) - 2
    assert "metrics.jsonl: 2 damaged lines passed over" in caplog.text
    recipe = yaml.safe_load((run / "run.yaml").read_text()) | {"record": {}}
    recipe["train"] |= {"steps": None, "replay": str(run / "metrics.jsonl")}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(newleaf.InputError, match=r"metrics.jsonl line 6 is damaged"):
        newleaf.pretrain(out=tmp_path / "again", config=tmp_path / "again.yaml", quiet=True)


# --- The small files


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"a": 1}', "5", "null", '{"../x": "00", "state.json": "00"}', "nonsense"]
)
def test_a_table_of_digests_that_is_none_is_damage(text: str, whole: newleaf.Run, run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "state" / "step-00000024" / "digests.json").write_text(text)
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    (line,) = heard.about("damaged")
    assert "step-00000024" in line
    assert outcome(run) == outcome(whole.path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "nonsense", '{"finished": true}', "\udcff", '{"finished": {}}' + " " * 9]
)
def test_a_damaged_summary_is_named_and_written_anew(text: str, whole: newleaf.Run, run: Path) -> None:
    (run / "summary.json").write_text(text, errors="surrogateescape")
    assert main(["info", str(run)]) == 0
    assert main(["runs", str(run)]) == 0
    with pytest.raises(newleaf.InputError, match=r"summary.json"):
        assert newleaf.Run(run).summary
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    assert heard.about("summary.json")
    assert outcome(run) == outcome(whole.path)


@pytest.mark.parametrize("name", ["step-xyz", "step-", "step-24", "step-00000030.bak", "notes.txt"])
def test_what_is_no_checkpoint_in_state_is_passed_over(name: str, whole: newleaf.Run, run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "state" / name).mkdir()
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    assert bool(heard.about(f"{name}: is no checkpoint")) == name.startswith("step-")
    (run / "state" / name).rmdir()
    assert outcome(run) == outcome(whole.path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "train: 5\n",
        "record: x\n",
        "train: {steps: -1}\n",
        "source: {a: 1}\ntrain: []\n",
        "\0",
        "a: &a [*a]\n",
        "5: 5\n",
    ],
)
def test_a_damaged_run_yaml_is_one_line_everywhere(
    text: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.yaml").write_text(text)
    (run / "summary.json").unlink()
    for command in (["pretrain", "--resume"], ["info"]):
        code = main([*command, str(run)])
        error = capsys.readouterr().err.strip()
        assert code == 0 or (code == 2 and "run.yaml" in error.splitlines()[-1]), (command, error)
    assert main(["pretrain", "--resume", str(run)]) == 2
    assert main(["runs", str(run)]) == 0


def test_a_lock_that_is_a_folder_or_nonsense_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").unlink()
    (run / ".lock").mkdir()
    assert main(["pretrain", "--resume", str(run)]) == 2
    assert ".lock" in capsys.readouterr().err.splitlines()[-1]
    (run / ".lock").rmdir()
    (run / ".lock").write_bytes(b"\xff\xfe\x00")
    assert main(["pretrain", "--resume", str(run), "--quiet"]) == 0
