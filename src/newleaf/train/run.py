"""A run from its first check to its last file, whatever its objective: begin one or go on with one, and leave
a run folder behind."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import psutil
import torch

from newleaf.data.data_config import BYTE_LIMIT_FIELDS
from newleaf.errors import InputError
from newleaf.kernels.matmul_speed import matmul_speed
from newleaf.recipe import recipe_of
from newleaf.storage.integrity import find_damage
from newleaf.train.display.monitor import Monitor
from newleaf.train.distributed.process_group import Ranks, join_process_group, restarted
from newleaf.train.distributed.sharding import Replicated
from newleaf.train.loop.session import Session
from newleaf.train.objective.objective import Objective
from newleaf.train.objective.train_config import TrainConfig
from newleaf.train.runs.checkpoint import Checkpoint, Checkpoints
from newleaf.train.runs.folder_lock import FolderLock, NoLock
from newleaf.train.runs.read_only_folder import ReadOnlyRunFolder
from newleaf.train.runs.run_folder import CONFIG, RunFolder
from newleaf.train.runs.run_length import (
    checked_lengths,
    describe_extension,
    follows_clock,
    last_rate,
    with_extension,
)
from newleaf.train.runs.trackers import Trackers, check_installed
from newleaf.train.signals import Interrupt
from newleaf.version import VERSION

STOPPED_EARLY_NOTE = (
    "stopped before training began; nothing was left half done, and the same command starts again"
)
MEASURED = 0.1  # seconds of matrix products, to show progress against


class Recipe(Protocol):
    """A configuration: a frozen dataclass with a section `train`."""

    @property
    def train(self) -> TrainConfig: ...


C = TypeVar("C", bound=Recipe)
Clock = Callable[[], float]  # seconds that go on evenly


@dataclass(frozen=True)
class RunKind(Generic[C]):
    """A kind of run: how its configuration is read from a run.yaml and checked for what needs no data, and
    how its objective is opened.

    `open` reads data and models, and raises InputError for bad ones before the run's folder is touched; all
    processes call it.
    """

    read: Callable[[Mapping[str, Any]], C]
    check: Callable[[C, Monitor], C]
    open: Callable[[C, Monitor, Ranks], Objective]


def begin(
    kind: RunKind[C],
    config: C,
    out: str | Path,
    monitor: Monitor,
    started: float,
    overwrite: bool = False,
    clock: Clock = time.monotonic,
) -> RunFolder:
    """Train what `config` describes into the run folder `out`.

    `started` is the moment, by `clock`, from which `train.time` counts. Raises InputError for bad input,
    before the run folder is touched, and Stopped when asked to stop while there is nothing to save.
    """
    with join_process_group(clock) as ranks:
        folder = _folder(out, ranks)
        if ranks.on_rank_zero(lambda: restarted() and _is_own_earlier_run(folder, overwrite)):
            return _resume(kind, folder, monitor, started, ranks)
        with _locked(folder, config.train, ranks) as (lock, interrupt):
            if folder.is_run():
                lock.acquire()
            ranks.on_rank_zero(lambda: folder.check_free(overwrite))
            config = kind.check(config, monitor)
            check_installed(config.train.track)
            objective = kind.open(config, monitor, ranks)
            speed = _measure(objective, monitor)
            interrupt.gently(monitor.say)
            session = Session(objective, folder, monitor, interrupt, started, ranks, speed)
            session.run.announce_disk()
            record = _record(session, speed)
            ranks.on_rank_zero(lambda: _begin(folder, record, lock, monitor, overwrite))
            with _tracked(folder, record, 0, monitor):
                session.train()
    return folder


def _begin(
    folder: RunFolder, record: dict[str, Any], lock: FolderLock, monitor: Monitor, overwrite: bool
) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    _acquire(lock, monitor)
    folder.check_free(overwrite)  # someone may have been faster
    folder.sweep()
    folder.begin(record)


def resume(
    kind: RunKind[C],
    out: str | Path,
    monitor: Monitor,
    started: float,
    lengths: Mapping[str, Any] | None = None,
    clock: Clock = time.monotonic,
) -> RunFolder:
    """Go on with the run in `out` from its last whole checkpoint, or from its beginning when there is none
    yet; a finished run stays.

    One of `lengths` (steps, tokens or epochs in all, or more time) extends it, a finished run too. It may go
    on with another number of processes than it had.
    """
    with join_process_group(clock) as ranks:
        return _resume(kind, _folder(out, ranks), monitor, started, ranks, checked_lengths(lengths or {}))


def _resume(
    kind: RunKind[C],
    folder: RunFolder,
    monitor: Monitor,
    started: float,
    ranks: Ranks,
    lengths: Mapping[str, Any] | None = None,
) -> RunFolder:
    cut_short = ranks.on_rank_zero(folder.coming)
    values = cut_short or ranks.on_rank_zero(folder.read_config)
    finished = not cut_short and ranks.on_rank_zero(lambda: is_finished(folder, monitor))
    if finished and not lengths:
        monitor.say(f"{folder.path}: this run is finished; --steps, --time, --tokens or --epochs extend it.")
        return folder
    config = _read(kind, values, folder)
    with _locked(folder, config.train, ranks) as (lock, interrupt):
        ranks.on_rank_zero(lambda: _clean_up(folder, lock, monitor, cut_short))
        found = Checkpoints(folder.state, layout=Replicated(ranks)).newest(monitor.say)
        if finished and found is None:
            raise InputError(
                f"{folder.path}: has no checkpoint to go on from; newleaf finetune goes on from its model"
            )
        if lengths:
            values = ranks.on_rank_zero(lambda: _extended(folder, values, lengths, found))
            config = _read(kind, values, folder)
        check_installed(config.train.track)
        objective = kind.open(config, monitor, ranks)
        for name, fingerprint in objective.fingerprints.items():
            if fingerprint != _fingerprints(values).get(name):
                raise InputError(
                    f"{folder.path}: cannot be resumed, its {name} is not what it was when the run began"
                )
        speed = _measure(objective, monitor)
        interrupt.gently(monitor.say)
        session = Session(objective, folder, monitor, interrupt, started, ranks, speed)
        if found is None:
            monitor.say(f"{folder.path}: stopped before its first checkpoint, so it begins anew.")
            ranks.on_rank_zero(lambda: folder.begin(values))
        else:
            if lengths:
                ranks.on_rank_zero(lambda: folder.extend(values))
                monitor.say(describe_extension(config.train))
            session.restore(found)
        with _tracked(folder, values, session.state.step, monitor):
            session.train()
    return folder


def _read(kind: RunKind[C], values: Mapping[str, Any], folder: RunFolder) -> C:
    """The configuration in a run.yaml, with the schedule it was begun with.

    Raises InputError, naming the file.
    """
    recipe = recipe_of(values)
    if follows_clock(values):
        recipe["train"] = recipe["train"] | {"replay": None}
        recipe |= _same_data(recipe)
    try:
        return kind.read(recipe)
    except InputError as error:
        raise InputError(f"{folder.path / CONFIG}: {error}") from None


def _same_data(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` with what a run.yaml does not limit taken whole: its run took it so, and this
    machine may be slower by now."""
    data = recipe.get("data")
    if not isinstance(data, Mapping):
        return {}
    return {
        "data": {
            name: "all" if name in BYTE_LIMIT_FIELDS and value is None else value
            for name, value in data.items()
        }
    }


def _extended(
    folder: RunFolder, values: dict[str, Any], lengths: Mapping[str, Any], found: Checkpoint | None
) -> dict[str, Any]:
    if found is None:
        return with_extension(values, lengths, 0, 0.0, 0.0)
    rate = last_rate(folder.lines(), found.step, found.values["health"]["rate_scale"])
    return with_extension(values, lengths, found.step, found.values["total_seconds"], rate)


def _fingerprints(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found = (values.get("record") or {}).get("fingerprints")
    return found if isinstance(found, Mapping) else {}


def is_finished(folder: RunFolder, monitor: Monitor) -> bool:
    """Whether the run has ended and its model can be read; damage is told, and what is damaged is made again.

    Raises InputError where there is no checkpoint to make a model from.
    """
    try:
        finished = bool((folder.read_summary() or {}).get("finished"))
    except InputError as error:
        monitor.say(f"Warning: {error}; it is written anew.")
        return False
    trouble = find_damage(folder.made()) if finished else None
    if trouble is not None and not Checkpoints(folder.state).steps():
        raise InputError(
            f"{trouble}. There is no checkpoint to make it again from; --overwrite trains it anew"
        )
    return finished and trouble is None


def _clean_up(
    folder: RunFolder, lock: FolderLock, monitor: Monitor, cut_short: dict[str, Any] | None
) -> None:
    _acquire(lock, monitor)
    folder.sweep()
    if cut_short is not None:
        monitor.say(
            f"{folder.path}: was being replaced by a new run when that was killed; the new run begins."
        )
        folder.begin(cut_short)
    Checkpoints(folder.state).sweep()


def _folder(out: str | Path, ranks: Ranks) -> RunFolder:
    return RunFolder(out) if ranks.is_rank_zero else ReadOnlyRunFolder(out)


def _is_own_earlier_run(folder: RunFolder, overwrite: bool) -> bool:
    """Whether the run in the folder is of the processes before us, and not one that they were to replace."""
    if not folder.is_run():
        return False
    return (
        not overwrite or (folder.path / CONFIG).stat().st_mtime > psutil.Process(os.getppid()).create_time()
    )


def _measure(objective: Objective, monitor: Monitor) -> float:
    """How fast this machine multiplies matrices in the run's number format, FLOP/s.

    The monitor shows progress against it.
    """
    train = objective.train
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    speed = matmul_speed(dtype, torch.device(train.device or "cpu"), MEASURED)
    monitor.machine(objective.flops_per_token, speed)
    return speed


@contextmanager
def _tracked(folder: RunFolder, config: dict[str, Any], step: int, monitor: Monitor) -> Iterator[None]:
    """The run's trackers hear each line of metrics.jsonl from `step` on."""
    told = () if isinstance(folder, ReadOnlyRunFolder) else config["train"].get("track") or ()
    trackers = Trackers(told, folder.path, config, step, monitor.say)
    folder.listeners.append(trackers.record)
    try:
        yield
    finally:
        folder.listeners.remove(trackers.record)
        trackers.close()


@contextmanager
def _locked(folder: RunFolder, train: TrainConfig, ranks: Ranks) -> Iterator[tuple[FolderLock, Interrupt]]:
    """The folder's lock, not yet taken, and ears for signals; both are given back at the end."""
    lock = FolderLock(folder.path) if ranks.is_rank_zero else NoLock(folder.path)
    try:
        with Interrupt(STOPPED_EARLY_NOTE, train.preempt_signal) as interrupt:
            yield lock, interrupt
    finally:
        lock.release()


def _acquire(lock: FolderLock, monitor: Monitor) -> None:
    lock.acquire()
    if lock.note is not None:
        monitor.say(lock.note)


def _record(session: Session, speed: float) -> dict[str, Any]:
    """run.yaml: a recipe that gives this run again, and under `record` what it was made with."""
    objective, values = session.run.objective, session.run.objective.recipe()
    values["train"]["micro_batch_size"] = session.loop.micro_batch_size
    if objective.train.time is not None:
        values["train"]["replay"] = "metrics.jsonl"
    values["record"] = {
        "newleaf": VERSION,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "matrix_flops": round(speed),
        "flops_per_token": round(objective.flops_per_token),
        "processes": session.ranks.size,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fingerprints": dict(objective.fingerprints),
        **objective.record(),
    }
    return values
