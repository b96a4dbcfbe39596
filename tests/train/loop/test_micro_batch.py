"""How many windows are in memory at once: measured, limited by what is free, halved when the device
complains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from killed_runs import OPTIONS, RecordingMonitor, options

import newleaf
from newleaf.data.batches import Batch
from newleaf.model import GPT, GPTConfig
from newleaf.train.loop.loop import Loop
from newleaf.train.loop.micro_batch import free_memory, largest_micro_batch, measure_step_memory

GB = 10**9


def test_the_memory_of_a_measured_step_is_what_pytorch_itself_counts() -> None:
    """Against the profiler, which adds up the allocator's own calls: growth between one and two windows, and
    between four and eight."""
    torch.manual_seed(0)
    network = GPT(GPTConfig(300, 256, 2, 2, 64))
    ids = torch.randint(300, (9, 257))
    batch = Batch(ids[:, :256], ids[:, 1:].contiguous())
    fixed, window = measure_step_memory(network, batch)
    assert all(weight.grad is None for weight in network.parameters())
    for rows in (4, 8):
        assert fixed + rows * window == pytest.approx(profiled(network, batch, rows), rel=0.1)


def profiled(network: GPT, batch: Batch, rows: int) -> int:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        network.loss(batch.ids[:rows], batch.targets[:rows], reduction="sum").backward()
    alive = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    for weight in network.parameters():
        weight.grad = None
    return most


def test_the_most_windows_that_fit_and_divide_the_batch_are_taken() -> None:
    assert largest_micro_batch(12, fixed=1 * GB, window=1 * GB, room=6.5 * GB) == 4
    assert largest_micro_batch(12, fixed=1 * GB, window=1 * GB, room=99 * GB) == 12
    assert largest_micro_batch(12, fixed=9 * GB, window=1 * GB, room=5 * GB) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_cgroup_or_of_one_above_it_counts_and_cached_files_do_not(
    version: int, tmp_path: Path
) -> None:
    """A job of 3 GB inside a slice of 1 GB, of which 0.7 are used, 0.2 of these by the cache of files: 0.5 GB
    are left."""
    names = [
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ("memory.max", "memory.current", "inactive_file"),
    ]
    limit, usage, cache = names[version - 1]
    mount = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(
        f"7:cpu,cpuacct:/x\n{'4:memory' if version == 1 else '0:'}:/slice/job\n"
    )
    for folder, most, used, cached in (
        (mount / "slice/job", 3 * GB, GB // 10, 0),
        (mount / "slice", GB, 7 * GB // 10, 2 * GB // 10),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(f"{most}\n")
        (folder / usage).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cache} {cached}\n")
    assert free_memory(torch.device("cpu"), tmp_path) == GB // 2
    (mount / "slice" / limit).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert free_memory(torch.device("cpu"), tmp_path) == 3 * GB - GB // 10


def test_a_run_in_little_memory_takes_smaller_portions_records_them_and_resumes_with_them(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop import micro_batch, session

    fp32 = {"train": {"precision": "fp32"}, "model": {"residual_dropout": 0.0}}
    whole = newleaf.pretrain(book, out=tmp_path / "whole", quiet=True, **options(**fp32))
    heard = RecordingMonitor()
    with monkeypatch.context() as patch:
        patch.setattr(micro_batch, "measure_step_memory", lambda network, batch, losses: (0, 10 * GB))
        patch.setattr(micro_batch, "free_memory", lambda device: 30 * GB)  # of which 0.7 are taken
        patch.setattr(session.Session, "stop_requested", lambda self: self.state.step >= 9)
        newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **options(**fp32))
    assert heard.about("Memory: 2 of 4 windows at once")
    assert (
        yaml.safe_load((tmp_path / "run" / "run.yaml").read_text("utf-8"))["train"]["micro_batch_size"] == 2
    )
    parts = sizes_of_portions(monkeypatch)
    run = newleaf.resume(tmp_path / "run", quiet=True)
    assert set(parts) == {2}
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)


def test_a_step_that_does_not_fit_even_with_one_window_is_warned_of(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newleaf.train.loop import micro_batch

    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 1000)
    heard = RecordingMonitor()
    newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **options(steps=1))
    assert heard.about("memory is short even for 1 window at once")


def test_running_out_of_memory_halves_the_portions_and_gives_the_same_losses_to_rounding(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 7 the device holds two windows; at step 13 it fails at the second of two portions, when half
    the gradients are there."""
    from newleaf.train.loop import micro_batch

    # whatever else the machine holds in memory
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 30 * GB)
    fp32 = {"train": {"precision": "fp32"}, "model": {"residual_dropout": 0.0}}
    whole = newleaf.pretrain(book, out=tmp_path / "whole", quiet=True, **options(**fp32))
    step, portions = [0], [0]
    real, take = GPT.loss, Loop._step

    def loss(self: GPT, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        portions[0] += self.training
        if self.training and (
            (step[0] >= 6 and ids.shape[0] > 2) or (step[0] == 12 and ids.shape[0] == 2 and portions[0] == 2)
        ):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, ids, *args, **kwargs)

    def taking(self: Loop) -> Any:
        step[0], portions[0] = self.state.step, 0
        return take(self)

    monkeypatch.setattr(GPT, "loss", loss)
    monkeypatch.setattr(Loop, "_step", taking)
    heard = RecordingMonitor()
    run = newleaf.pretrain(book, out=tmp_path / "run", monitor=heard, **options(**fp32))
    assert [line["micro_batch_size"] for line in run.metrics if "micro_batch_size" in line] == [2, 1]
    assert len(heard.about("Out of memory: from now on")) == 2
    assert losses(run) == pytest.approx(losses(whole), rel=1e-3)


def test_a_device_too_small_for_one_window_ends_the_run_in_one_line(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: Loop, batch: Batch, counted: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "_micro_batches", loss)
    with pytest.raises(newleaf.InputError, match="does not hold a single window"):
        newleaf.pretrain(book, out=tmp_path / "run", quiet=True, **OPTIONS)


def sizes_of_portions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The windows of each training portion from now on."""
    found: list[int] = []
    real = GPT.loss

    def loss(self: GPT, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.training:
            found.append(ids.shape[0])
        return real(self, ids, *args, **kwargs)

    monkeypatch.setattr(GPT, "loss", loss)
    return found


def losses(run: newleaf.Run) -> list[float]:
    return [line["loss"] for line in run.metrics if "loss" in line]
