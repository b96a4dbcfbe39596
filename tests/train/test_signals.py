"""Being asked to stop, at any moment, and two runs that want one folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killed_runs import OPTIONS, RecordingMonitor, finish, options, outcome, start, wait_for

import newleaf
from newleaf.train.runs.folder_lock import FolderLock

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")


@pytest.fixture(scope="module")
def whole(book: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    finish(book, run, OPTIONS)
    return outcome(run)


def slowly(where: str) -> None:
    """In the process itself: make training steps, validations or samples slow enough to be stopped in."""
    from newleaf.model import GPT

    real = GPT.hidden

    def hidden(self: GPT, ids: Any, **others: Any) -> Any:
        doing = "training" if self.training else "validation" if ids.shape[0] > 1 else "sample"
        if doing == where:
            time.sleep(0.05 if doing == "training" else 0.5)
        return real(self, ids, **others)

    GPT.hidden = hidden  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("name", "where"),
    [("SIGTERM", "training"), ("SIGUSR1", "training"), ("SIGTERM", "validation"), ("SIGINT", "sample")],
)
def test_a_signal_ends_the_run_within_seconds_with_a_checkpoint_from_which_it_goes_on_exactly(
    name: str, where: str, whole: dict[str, Any], book: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(book, run, OPTIONS, slowly, where)
    wait_for(run, 9 if where == "training" else 6, process)
    os.kill(process.pid or 0, getattr(signal, name))
    os.kill(process.pid or 0, signal.SIGTERM)  # schedulers send several
    process.join(60)
    assert process.exitcode == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"] is False
    steps = summary["steps"]
    assert 9 <= steps < 24 if where == "training" else steps == 6, "no step is taken that could be left"
    assert newleaf.load(run).generate("a", max_tokens=2) is not None
    finish(book, run, OPTIONS)
    found = outcome(run)
    assert {name: found[name] for name in found if name != "files"} == {
        name: whole[name] for name in found if name != "files"
    }


def test_stopping_at_a_step_that_is_better_than_the_best_does_not_change_which_is_the_best(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation gets worse after each check, and the look at the stop finds the best figure of all: the user
    gets it, the run does not."""
    from newleaf.train.pretraining.text_evaluator import TextEvaluator

    def validate(self: TextEvaluator, rows: int | None, to_the_end: bool = False) -> dict[str, float]:
        calls.append(len(calls))
        nats = 1.0 if to_the_end else 100.0 + len(calls)
        return {"val_loss": nats / 10, "val_bits_per_byte": nats / 20}

    calls: list[int] = []
    monkeypatch.setattr(TextEvaluator, "validate", validate)
    whole = newleaf.pretrain(book, out=tmp_path / "whole", quiet=True, **OPTIONS)
    assert whole.summary["best_step"] == 6
    from newleaf.train.loop.session import Session

    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_requested", lambda session: session.state.step >= 15)
        stopped = newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)
    assert stopped.summary["best_step"] == 15
    assert weights(stopped) != weights(whole)
    calls.pop()
    resumed = newleaf.resume(tmp_path / "run", quiet=True)
    assert resumed.summary["best_step"] == 6
    assert weights(resumed) == weights(whole)


def weights(run: newleaf.Run) -> bytes:
    return (run.path / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["reading", "tokenizer"])
def test_a_signal_while_text_is_prepared_ends_it_at_once_with_code_0_and_leaves_nothing_half_done(
    stage: str, tmp_path: Path
) -> None:
    """As typed, with a text of 20 MB; a file appears when the stage begins."""
    launcher = tmp_path / "launch.py"
    launcher.write_text(LAUNCHER)
    text = tmp_path / "long.txt"
    text.write_text("".join(f"{n * n} is the square of {n}, and {n:x} in letters. " for n in range(400_000)))
    cache, begun = tmp_path / "cache", tmp_path / "begun"
    command = [
        sys.executable,
        launcher,
        begun,
        stage,
        "pretrain",
        text,
        "--steps",
        "5",
        "--out",
        tmp_path / "run",
    ]
    process = subprocess.Popen(
        command, env=os.environ | {"NEWLEAF_CACHE": str(cache)}, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 0, error
    assert error.splitlines()[-1].startswith(
        "newleaf: stopped before training began; nothing was left half done"
    )
    assert not (tmp_path / "run").exists()
    assert not list(cache.rglob("*.tmp"))


LAUNCHER = """
import sys
from pathlib import Path
import newleaf.data.corpus, newleaf.train.pretraining.prepare_pretraining
begun, stage = Path(sys.argv[1]), sys.argv[2]
def telling(real):
    def told(*args, **kwargs):
        begun.touch()
        return real(*args, **kwargs)
    return told
if stage == "reading":
    newleaf.data.corpus._write_text_store = telling(newleaf.data.corpus._write_text_store)
else:
    prepare = newleaf.train.pretraining.prepare_pretraining
    prepare.train_tokenizer = telling(prepare.train_tokenizer)
from newleaf.cli.main import main
sys.exit(main(sys.argv[3:]))
"""


def test_a_second_run_into_one_folder_is_refused_in_one_line_and_the_first_goes_on(
    book: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(book, run, options(steps=1000), slowly, "training")
    wait_for(run, 2, process)
    before = (run / "run.yaml").stat().st_mtime_ns
    for attempt in (
        lambda: newleaf.resume(run, quiet=True),
        lambda: newleaf.pretrain(book, out=run, overwrite=True, quiet=True, **OPTIONS),
        lambda: newleaf.pretrain(book, out=run, quiet=True, **OPTIONS),
    ):
        with pytest.raises(
            newleaf.InputError, match=rf"another process \({process.pid}\) is training into this folder"
        ) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert (run / "run.yaml").stat().st_mtime_ns == before
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 0
    assert json.loads((run / "summary.json").read_text())["steps"] > 2
    assert not (run / ".lock").exists()


def test_the_lock_dies_with_its_process(book: Path, tmp_path: Path, whole: dict[str, Any]) -> None:
    process = start(book, tmp_path / "run", OPTIONS, slowly, "training")
    wait_for(tmp_path / "run", 2, process)
    process.kill()
    process.join()
    assert (tmp_path / "run" / ".lock").exists()
    newleaf.resume(tmp_path / "run", quiet=True)
    assert outcome(tmp_path / "run") == whole


def test_where_a_file_system_has_no_locks_the_user_is_told(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.runs import folder_lock

    def refuse(descriptor: int, blocking: bool) -> bool:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(folder_lock, "lock_descriptor", refuse)
    heard = RecordingMonitor()
    newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **options(steps=1))
    assert heard.about("this file system has no locks (Operation not supported)")


def test_a_lock_can_be_acquired_again_once_released(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(newleaf.InputError, match="another process"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_does_not_exist_is_refused_by_name(book: Path, tmp_path: Path) -> None:
    with pytest.raises(newleaf.InputError, match=r"train\.preempt_signal: 'SIGNOPE' is not a signal"):
        newleaf.pretrain(
            book, out=tmp_path / "run", quiet=True, **options(train={"preempt_signal": "SIGNOPE"})
        )


def test_a_signal_is_heard_while_a_library_computes() -> None:
    """Ten million rounds of a hash take some seconds, in which Python itself does nothing."""
    from hashlib import pbkdf2_hmac

    from newleaf.errors import Stopped
    from newleaf.train.signals import Interrupt, interruptible

    done: list[bytes] = []
    send = ["import os, time", "time.sleep(0.2)", "os.kill(os.getppid(), 15)"]
    sender = subprocess.Popen([sys.executable, "-c", "\n".join(send)])
    with Interrupt("nothing yet"), pytest.raises(Stopped, match="nothing yet"):
        interruptible(lambda: done.append(pbkdf2_hmac("sha256", b"", b"", 10_000_000)))
    assert not done, "it was heard before the library had done"
    sender.wait(60)
