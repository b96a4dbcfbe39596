"""Text to model: begin a run or go on with one, and leave a run folder behind."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from newleaf.errors import InputError
from newleaf.model.count import training_flops
from newleaf.train.bystander import Bystander
from newleaf.train.checkpoint import Checkpoints
from newleaf.train.config import PretrainConfig
from newleaf.train.interrupt import Interrupt
from newleaf.train.layout import Whole
from newleaf.train.lock import FolderLock, NoLock
from newleaf.train.machine import matrix_speed, thread_advice
from newleaf.train.monitor import Monitor
from newleaf.train.prepare import Prepared, prepare
from newleaf.train.ranks import Ranks, joined, restarted
from newleaf.train.recipe import build, plain
from newleaf.train.run_folder import CONFIG, RunFolder
from newleaf.train.session import Session
from newleaf.train.trackers import Trackers, check_installed
from newleaf.version import VERSION

DEFAULT_TIME = "3m"
NOTHING_YET = "stopped before training began; nothing was left half done, and the same command starts again"
MEASURED = 0.1  # seconds of matrix products, to show progress against


def pretrain(config: PretrainConfig, out: str | Path, monitor: Monitor, started: float, overwrite: bool = False) -> RunFolder:
    """Train a new model on `config.source` into the run folder `out`.

    `started` is the moment (time.monotonic) from which `train.time` counts. Raises InputError for bad input, before the run folder is
    touched, and Stopped when asked to stop while there is nothing to save.
    """
    with joined() as ranks:
        folder = _folder(out, ranks)
        if ranks.first(lambda: restarted() and _begun_by_us(folder, overwrite)):
            return _resume(folder, monitor, started, ranks)
        with _guarded(folder, config, ranks) as (lock, interrupt):
            if folder.is_run():
                lock.take()
            ranks.first(lambda: folder.check_free(overwrite))
            config = _with_length(config, monitor)
            prepared = _prepared(config, monitor, ranks)
            speed = _measure(prepared, monitor)
            interrupt.gently(monitor.say)
            session = Session(prepared, folder, monitor, interrupt, started, ranks)
            session.announce_disk()
            record = _record(session.prepared, speed, ranks)
            ranks.first(lambda: _begin(folder, record, lock, monitor, overwrite))
            with _tracked(folder, record, 0, monitor):
                session.train()
    return folder


def _with_length(config: PretrainConfig, monitor: Monitor) -> PretrainConfig:
    """The configuration with a length, checked for what needs no text."""
    if not config.source:
        raise InputError("no source: name a text file, a folder or hf:owner/dataset")
    train = config.train
    if not any((train.time, train.steps, train.tokens, train.epochs, train.replay)):
        monitor.say(f"No length given: taking --time {DEFAULT_TIME}.")
        config = dataclasses.replace(config, train=dataclasses.replace(train, time=DEFAULT_TIME))
    check_installed(train.track)
    return config


def _begin(folder: RunFolder, record: dict[str, Any], lock: FolderLock, monitor: Monitor, overwrite: bool) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    _take(lock, monitor)
    folder.check_free(overwrite)  # someone may have been faster
    folder.sweep()
    folder.begin(record)


def resume(out: str | Path, monitor: Monitor, started: float) -> RunFolder:
    """Go on with the run in `out` from its last whole checkpoint, or from its beginning when there is none yet; a finished run stays.

    It may go on with another number of processes than it had.
    """
    with joined() as ranks:
        return _resume(_folder(out, ranks), monitor, started, ranks)


def _resume(folder: RunFolder, monitor: Monitor, started: float, ranks: Ranks) -> RunFolder:
    values = folder.read_config()
    record = values.get("record", {})
    if (folder.read_summary() or {}).get("finished"):
        monitor.say(f"{folder.path}: this run is finished; there is nothing to resume.")
        return folder
    config = build(PretrainConfig, {name: value for name, value in values.items() if name != "record"})
    if config.train.time is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, replay=None))
    with _guarded(folder, config, ranks) as (lock, interrupt):
        ranks.first(lambda: _tidy(folder, lock, monitor))
        found = Checkpoints(folder.state, layout=Whole(ranks)).newest(monitor.say)
        check_installed(config.train.track)
        prepared = _prepared(config, monitor, ranks)
        for name, fingerprint in prepared.fingerprints.items():
            if fingerprint != record.get("fingerprints", {}).get(name):
                raise InputError(f"{folder.path}: cannot be resumed, its {name} is not what it was when the run began")
        _measure(prepared, monitor)
        interrupt.gently(monitor.say)
        session = Session(prepared, folder, monitor, interrupt, started, ranks)
        if found is None:
            monitor.say(f"{folder.path}: stopped before its first checkpoint, so it begins anew.")
            ranks.first(lambda: folder.begin(values))
        else:
            session.restore(found)
        with _tracked(folder, values, session.loop.step, monitor):
            session.train()
    return folder


def _tidy(folder: RunFolder, lock: FolderLock, monitor: Monitor) -> None:
    _take(lock, monitor)
    folder.sweep()
    Checkpoints(folder.state).sweep()


def _folder(out: str | Path, ranks: Ranks) -> RunFolder:
    return RunFolder(out) if ranks.leads else Bystander(out)


def _begun_by_us(folder: RunFolder, overwrite: bool) -> bool:
    """Whether the run in the folder is of the processes before us, and not one that they were to replace."""
    if not folder.is_run():
        return False
    return not overwrite or (folder.path / CONFIG).stat().st_mtime > psutil.Process(os.getppid()).create_time()


def _prepared(config: PretrainConfig, monitor: Monitor, ranks: Ranks) -> Prepared:
    """What the first process prepares and chooses, in all of them; the others find text and tokens in the cache, or make them again."""
    mine: list[Prepared] = []

    def settle() -> dict[str, Any]:
        mine.append(prepare(config, monitor, ranks.size))
        return {"config": plain(mine[0].config), "fingerprints": mine[0].fingerprints}

    settled = ranks.first(settle)
    if ranks.size > 1 and (advice := thread_advice(settled["config"]["train"]["threads"], ranks.local_size)) is not None:
        monitor.say(advice)
    found = ranks.in_turn(lambda: mine[0] if mine else prepare(build(PretrainConfig, settled["config"]), monitor, ranks.size))
    if found.fingerprints != settled["fingerprints"]:
        raise InputError(f"process {ranks.rank} finds another text or tokenizer than the first one: they must read the same files")
    return found


def _measure(prepared: Prepared, monitor: Monitor) -> float:
    """How fast this machine multiplies matrices in the run's number format, FLOP/s; the monitor shows progress against it."""
    train = prepared.config.train
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    speed = matrix_speed(dtype, torch.device(train.device or "cpu"), MEASURED)
    monitor.machine(training_flops(prepared.network), speed)
    return speed


@contextmanager
def _tracked(folder: RunFolder, config: dict[str, Any], step: int, monitor: Monitor) -> Iterator[None]:
    """The run's trackers hear each line of metrics.jsonl from `step` on."""
    told = () if isinstance(folder, Bystander) else config["train"].get("track") or ()
    trackers = Trackers(told, folder.path, config, step, monitor.say)
    folder.listeners.append(trackers.record)
    try:
        yield
    finally:
        folder.listeners.remove(trackers.record)
        trackers.close()


@contextmanager
def _guarded(folder: RunFolder, config: PretrainConfig, ranks: Ranks) -> Iterator[tuple[FolderLock, Interrupt]]:
    """The folder's lock, not yet taken, and ears for signals; both are given back at the end."""
    lock = FolderLock(folder.path) if ranks.leads else NoLock(folder.path)
    try:
        with Interrupt(NOTHING_YET, config.train.preempt_signal) as interrupt:
            yield lock, interrupt
    finally:
        lock.release()


def _take(lock: FolderLock, monitor: Monitor) -> None:
    lock.take()
    if lock.note is not None:
        monitor.say(lock.note)


def _absolute(source: str) -> str:
    """A run is resumed from any folder."""
    return source if source.startswith("hf:") else str(Path(source).absolute())


def _record(prepared: Prepared, speed: float, ranks: Ranks) -> dict[str, Any]:
    """run.yaml: a recipe that gives this run again, and under `record` what it was made with."""
    values: dict[str, Any] = plain(prepared.config)
    values["source"] = [_absolute(name) for name in prepared.config.source]
    values["data"]["validation"] = [_absolute(name) for name in prepared.config.data.validation_sources or ()] or None
    if values["tokenizer"]["path"] is not None and Path(values["tokenizer"]["path"]).exists():
        values["tokenizer"]["path"] = _absolute(values["tokenizer"]["path"])
    if prepared.config.train.time is not None:
        values["train"]["replay"] = "metrics.jsonl"
    values["record"] = {
        "newleaf": VERSION,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "matrix_flops": round(speed),
        "processes": ranks.size,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fingerprints": prepared.fingerprints,
        "text_bytes": prepared.train.n_bytes,
        "validation_bytes": prepared.validation.n_bytes,
        "validation_tokens": len(prepared.validation.tokens),
        "train_tokens": len(prepared.train.tokens),
    }
    return values
