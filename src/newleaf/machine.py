"""What this process has of the machine: threads, memory, the device, its age."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from newleaf.errors import InputError
from newleaf.format_amounts import counted

MAX_THREADS = 256


def use_threads(count: int | None) -> int:
    """Use `count` threads, or OMP_NUM_THREADS, or one for each core this process may run on.

    Returns the number.

    Raises InputError for a number that no machine of this size has use for: OpenMP ends the process when it
    cannot start them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    most = max(MAX_THREADS, 4 * cores)
    if count is not None and (type(count) is not int or not 1 <= count <= most):
        raise InputError(
            f"threads: must be between 1 and {most}, not {count!r}; this machine has {counted(cores, 'core')}"
        )
    if count is None and os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        count = min(most, max(1, int(os.environ["OMP_NUM_THREADS"])))
    if count is None:
        count = cores
    torch.set_num_threads(count)
    return count


def thread_advice(threads: int, processes: int) -> str | None:
    """A sentence when `processes` on this machine, of `threads` each, leave most of its cores idle."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    fair = cores // processes
    if fair <= threads:
        return None
    return (
        f"Threads: {threads} for each of {processes} processes, as torchrun sets OMP_NUM_THREADS=1 unless "
        f"you set it; "
        f"this machine has {cores} cores, so OMP_NUM_THREADS={fair} uses them."
    )


def retain_freed_memory() -> None:
    """Ask glibc to keep freed memory instead of giving it back to the system after every large tensor.

    Each training step allocates the same tensors again, and touching fresh pages costs up to a third of it.
    Elsewhere this does nothing.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Numbers below 2⁻¹²⁶ are zero in here, where the processor can: computing with them takes a hundred
    times as long.

    They are as they were afterwards, for whatever else this process does.
    """
    before = bool(torch.full((), 2.0**-130) * 1.0 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def pick_device(name: str | None) -> torch.device:
    """The device asked for, or CUDA where there is one, or the CPU.

    Raises ValueError for one that is not here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors, and holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used here ({str(error).splitlines()[0]})") from None
    return device


def process_age() -> float:
    """Seconds since this process was created."""
    return max(0.0, time.time() - psutil.Process().create_time())
