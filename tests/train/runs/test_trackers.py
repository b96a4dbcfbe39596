"""Trackers: each is read back with its own reader, nothing leaves the machine, and none can end a run."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import newleaf
from newleaf.recipe import merge
from newleaf.train.runs import trackers
from newleaf.train.runs.trackers import TRACKERS, Trackers

SMALL: dict[str, Any] = {
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 1, "n_embd": 32, "n_head": 1, "head_dim": 32, "n_inner": 32, "context_length": 32},
    "train": {"batch_size": 4, "eval_every": 4, "sample": {"max_tokens": 5}},
}


def installed(name: str) -> bool:
    found = find_spec(name)
    return found is not None and found.origin is not None


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not installed(name), reason=f"needs {name}")


def train(book: Path, out: Path, *names: str, **options: Any) -> newleaf.Run:
    return newleaf.pretrain(book, out=out, quiet=True, track=names, **merge(SMALL, {"steps": 12}, options))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anything but this machine fails the test."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            pytest.fail(f"connected to {address}")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in ("WANDB_MODE", "WANDB_PROJECT", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


class RecordingMonitor:
    """A tracker that remembers."""

    def __init__(self, run: Path, config: Any, step: int) -> None:
        self.lines: list[Any] = []
        self.from_step = step
        self.closed = False

    def numbers(self, step: int, values: Any) -> None:
        self.lines.append((step, dict(values)))

    def sample(self, step: int, prompt: str, text: str) -> None:
        self.lines.append((step, prompt, text))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[RecordingMonitor]:
    """In the place of trackio, so that no package is needed."""
    made: list[RecordingMonitor] = []

    def make(*given: Any) -> RecordingMonitor:
        made.append(RecordingMonitor(*given))
        return made[-1]

    monkeypatch.setattr(trackers, "TRACKERS", {**TRACKERS, "trackio": make})
    monkeypatch.setattr("newleaf.train.run.check_installed", lambda names: None)
    return made


def test_a_tracker_hears_what_metrics_jsonl_hears(
    book: Path, tmp_path: Path, heard: list[RecordingMonitor]
) -> None:
    run = train(book, tmp_path / "r", "trackio")
    expected = [
        (line["step"], line["prompt"], line["sample"])
        if "sample" in line
        else (line["step"], {name: value for name, value in line.items() if name != "step"})
        for line in run.metrics
    ]
    assert heard[0].lines == expected
    assert heard[0].closed
    assert run.config["train"]["track"] == ["trackio"]


def test_a_resumed_run_goes_on_telling_from_its_checkpoint(
    book: Path, tmp_path: Path, heard: list[RecordingMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop.session import Session

    monkeypatch.setattr(Session, "stop_requested", lambda self: self.state.step >= 7)
    train(book, tmp_path / "r", "trackio")
    monkeypatch.undo()
    monkeypatch.setattr(
        trackers, "TRACKERS", {"trackio": lambda *given: heard.append(RecordingMonitor(*given)) or heard[-1]}
    )
    monkeypatch.setattr("newleaf.train.run.check_installed", lambda names: None)
    newleaf.resume(tmp_path / "r", quiet=True)
    assert [one.from_step for one in heard] == [0, 7]
    assert [line[0] for line in heard[1].lines if "loss" in line[1]] == [8, 9, 10, 11, 12]


def test_a_tracker_that_fails_is_dropped_with_a_sentence_and_the_run_goes_on(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(RecordingMonitor):
        def numbers(self, step: int, values: Any) -> None:
            if step == 3:
                raise OSError("No space left on device")

    said: list[str] = []
    broken = Trackers([], tmp_path, {}, 0, said.append)
    broken.open = {"wandb": Full(tmp_path, {}, 0), "trackio": (other := RecordingMonitor(tmp_path, {}, 0))}
    for step in range(1, 6):
        broken.record({"step": step, "loss": 1.0})
    assert said == ["wandb hears no more of this run (No space left on device); metrics.jsonl does."]
    assert len(other.lines) == 5

    def refuse(*given: Any) -> RecordingMonitor:
        raise RuntimeError("no key\nsecond line")

    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": refuse})
    Trackers(["wandb"], tmp_path, {}, 0, said.append).record({"step": 1, "loss": 1.0})
    assert said[1:] == ["wandb hears no more of this run (no key); metrics.jsonl does."]


def test_a_missing_package_is_one_line_naming_the_extra_before_anything_is_written(
    book: Path, tmp_path: Path
) -> None:
    (tmp_path / "wandb").mkdir()  # as an earlier run with wandb leaves it: not the package
    hide = "import sys; sys.modules['tensorboard'] = None; import importlib.util as u; find = u.find_spec\n"
    hide += (
        "u.find_spec = lambda name, *a: find(name + '_gone') if name in ('trackio', 'tensorboard') "
        "else find(name, *a)\n"
    )
    hide += "from newleaf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["pretrain", str(book), "--steps", "2", "--out", "r", "--track", "trackio"]
    done = subprocess.run(
        [sys.executable, "-c", hide, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "newleaf: track: trackio is not installed; pip install 'newleaf[track]' brings it\n"
    assert not (tmp_path / "r").exists()


def test_an_unknown_tracker_is_refused_by_name(book: Path, tmp_path: Path) -> None:
    with pytest.raises(
        newleaf.InputError, match=r"train.track: 'mlflow' is not one of tensorboard, wandb, trackio"
    ):
        train(book, tmp_path / "r", "mlflow")


@needs("tensorboard")
def test_tensorboard_reads_the_runs_numbers_and_samples_back(book: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(book, tmp_path / "r", "tensorboard")
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    told = [(event.step, event.value) for event in read.Scalars("loss")]
    expected = [(line["step"], line["loss"]) for line in run.metrics if "loss" in line]
    assert [step for step, _ in told] == [step for step, _ in expected]
    assert [value for _, value in told] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert [event.step for event in read.Scalars("val_bits_per_byte")] == [4, 8, 12]
    texts = read.Tensors("sample/no prompt/text_summary")
    assert [event.step for event in texts] == [0, 4, 8, 12]
    again = train(book, tmp_path / "r", "tensorboard", steps=3, overwrite=True)
    read = EventAccumulator(str(again.path / "tensorboard"))
    read.Reload()
    assert len(read.Scalars("loss")) == 3


def in_a_process(book: Path, out: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """These two keep threads and settings of their own, so they get a process."""
    options = [
        f"--{section}.{field}={value}"
        for section in ("tokenizer", "model")
        for field, value in SMALL[section].items()
    ]
    words = [
        "pretrain",
        book,
        "--steps",
        "6",
        "--out",
        out,
        "--track",
        name,
        "--train.eval_every=3",
        *options,
    ]
    command = [sys.executable, "-m", "newleaf", *map(str, words)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO"))}
    return subprocess.run(
        command, capture_output=True, text=True, env=clean | environment, timeout=200, check=False
    )


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, as wandb writes one: blocks of 32 KiB of chunks with checksum, length,
    kind (1 whole, 2 first, 4 last).

    The file's own seven bytes count as part of its first block.
    """
    at, whole = 0, b""
    while at + 7 <= len(data):
        left = 32768 - (at + 7) % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole = (b"" if kind in (1, 2) else whole) + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole


@needs("wandb")
def test_wandb_keeps_an_offline_run_in_the_runs_folder(book: Path, tmp_path: Path) -> None:
    done = in_a_process(book, tmp_path / "r", "wandb")
    assert done.returncode == 0, done.stderr
    assert "hears no more" not in done.stderr
    (offline,) = (tmp_path / "r" / "wandb").glob("offline-run-*")
    (log,) = offline.glob("run-*.wandb")
    from wandb.proto import wandb_internal_pb2

    losses = {}
    for data in leveldb_records(log.read_bytes()[7:]):  # after the file's own mark
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
        if "loss" in items:
            losses[int(items["_step"])] = float(items["loss"])
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx({line["step"]: line["loss"] for line in metrics if "loss" in line})


@needs("trackio")
def test_trackio_keeps_the_run_in_its_local_store(book: Path, tmp_path: Path) -> None:
    done = in_a_process(book, tmp_path / "r", "trackio", TRACKIO_DIR=str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    assert "hears no more" not in done.stderr
    assert done.stdout.startswith(str(tmp_path / "r"))
    read = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s; "
        "print(json.dumps(s.get_logs('newleaf', 'r'), default=str))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", read],
        capture_output=True,
        text=True,
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "store")},
        check=True,
    )
    logs = json.loads(shown.stdout.splitlines()[-1])
    metrics = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    told = {log["step"]: log["loss"] for log in logs if log.get("loss") is not None}
    assert told == pytest.approx({line["step"]: line["loss"] for line in metrics if "loss" in line})
