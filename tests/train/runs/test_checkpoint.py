"""Checkpoints on a disk that damages, fills up and is counted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import OPTIONS, RecordingMonitor, options, outcome

import newleaf
from newleaf.errors import InputError
from newleaf.train.runs.checkpoint import Checkpoints


@pytest.fixture(scope="module")
def whole(book: Path, tmp_path_factory: pytest.TempPathFactory) -> newleaf.Run:
    return newleaf.pretrain(book, out=tmp_path_factory.mktemp("whole") / "run", quiet=True, **OPTIONS)


def test_a_checkpoint_gives_back_what_it_was_given_and_the_newest_two_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, {"w": torch.full((3,), step / 3)}, {"step": step})
    assert checkpoints.steps() == [10, 15]
    found = checkpoints.newest(print)
    assert found is not None
    assert (found.step, found.values) == (15, {"step": 15})
    assert torch.equal(checkpoints.tensors(15)["w"], torch.full((3,), 5.0))


@pytest.mark.parametrize("name", ["optimizer.safetensors", "state.json", "digests.json"])
def test_a_damaged_last_checkpoint_is_named_in_one_line_and_the_one_before_is_used(
    name: str, whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_at(20, book, tmp_path / "run", monkeypatch)
    file = run / "state" / "step-00000020" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10  # one bit
    file.write_bytes(data)
    heard = RecordingMonitor()
    newleaf.resume(run, monitor=heard)
    (line,) = heard.about("damaged")
    assert "step-00000020" in line
    assert "\n" not in line
    assert heard.about("Resumed at step 18.")
    assert outcome(run) == outcome(whole.path)


def test_when_all_checkpoints_are_damaged_it_says_so_and_touches_nothing(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_at(20, book, tmp_path / "run", monkeypatch)
    for file in run.glob("state/step-*/optimizer.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(
        InputError,
        match=r"damaged \(optimizer.safetensors is not what was written\), and there is none before it",
    ):
        newleaf.resume(run, quiet=True)
    assert len(list(run.glob("state/step-*"))) == 2


def test_disk_use_is_announced_before_the_first_step_and_kept_within(book: Path, tmp_path: Path) -> None:
    heard = RecordingMonitor()
    run = newleaf.pretrain(
        book, out=tmp_path / "run", monitor=heard, **options(train={"keep_checkpoints": 3, "eval_every": 2})
    )
    (line,) = heard.about("Disk: ")
    assert "the last 3 are kept" in line
    assert len(list(run.path.glob("state/step-*"))) == 3
    announced = float(line.split("a checkpoint takes ")[1].split(" kB")[0]) * 1000
    real = (run.path / "state" / "step-00000024" / "optimizer.safetensors").stat().st_size
    assert announced == pytest.approx(real, rel=0.1)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(100_000))
    with pytest.raises(InputError, match="the disk has 100 kB left"):
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(400_000))
    heard = RecordingMonitor()
    newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **OPTIONS)
    assert heard.about("Warning: Disk: ")


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_a_full_disk_leaves_the_checkpoint_before_whole_and_training_goes_on(
    whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for everything, metrics included, while steps 10 to 13 are taken; the check at 12
    falls into that time."""
    heard = RecordingMonitor()
    with full_disk(monkeypatch, during=range(10, 14)):
        run = newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **OPTIONS)
    warnings = heard.about("could not be written (no space left on device)")
    assert [line.split(" of step")[0] for line in warnings] == [
        "Warning: the model",
        "Warning: the checkpoint",
    ]
    assert all("step 12" in line for line in warnings)
    found = outcome(run.path)
    assert found["metrics"] == outcome(whole.path)["metrics"]
    assert found["state"] == outcome(whole.path)["state"]
    assert sorted(path.name for path in run.path.glob("state/step-*")) == ["step-00000018", "step-00000024"]


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting a small file system needs root on Linux"
)
def test_on_a_real_full_disk_training_goes_on_and_ends_as_it_would_have(
    whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program fills the disk to its last byte from step 8 on, and is gone at step 14."""
    from newleaf.train.loop.session import Session

    disk, real = tmp_path / "disk", Session.step
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("cannot mount here")

    def step(session: Session, done: Any) -> None:
        real(session, done)
        if 8 <= done.number < 14:  # again and again: the system counts free pages for each core, and roughly
            with suppress(OSError), (disk / "ballast").open("ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        if done.number == 14:
            (disk / "ballast").unlink()

    monkeypatch.setattr(Session, "step", step)
    heard = RecordingMonitor()
    try:
        run = newleaf.pretrain(book, out=disk / "run", monitor=heard, **OPTIONS)
        assert heard.about("the checkpoint of step 12 could not be written (no space left on device)")
        found, expected = outcome(run.path), outcome(whole.path)
        assert {name: found[name] for name in ("metrics", "state")} == {
            name: expected[name] for name in ("metrics", "state")
        }
    finally:
        subprocess.run(["umount", disk], check=False)


def test_after_a_full_disk_and_a_kill_the_checkpoint_before_it_resumes(
    whole: newleaf.Run, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    real = Session.step

    def step(session: Session, done: Any) -> None:
        real(session, done)
        if done.number == 14:
            raise RuntimeError("as good as a kill")

    with monkeypatch.context() as patch, full_disk(patch, during=range(10, 25)):
        patch.setattr(Session, "step", step)
        with pytest.raises(RuntimeError):
            newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    heard = RecordingMonitor()
    newleaf.resume(tmp_path / "run", monitor=heard)
    assert heard.about("Resumed at step 6.")
    assert outcome(tmp_path / "run") == outcome(whole.path)


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, during: range) -> Iterator[None]:
    """Nothing can be written below a run's folder while the loop has done these numbers of steps."""
    from newleaf.storage import atomic_write
    from newleaf.train.loop.session import Session
    from newleaf.train.runs.metrics_file import MetricsFile

    session: list[Session] = []
    begin, flush, write = Session.train, atomic_write._flush, MetricsFile._write

    def refuse() -> None:
        if session and session[0].state.step in during:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def train(self: Session) -> None:
        session.append(self)
        begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "train", train)
        patch.setattr(atomic_write, "_flush", lambda path: (refuse(), flush(path)))
        patch.setattr(MetricsFile, "_write", lambda self: (refuse(), write(self)))
        yield


def stopped_at(step: int, book: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from newleaf.train.loop.session import Session

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= step)
        newleaf.pretrain(book, out=out, quiet=True, **OPTIONS)
    assert json.loads((out / "summary.json").read_text())["finished"] is False
    return out
