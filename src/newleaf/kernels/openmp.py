"""Compiled loops on PyTorch's own threads: a second pool beside them would fight with threads that spin while
they wait.

PyTorch's Linux wheels carry GNU's OpenMP, whose way into a parallel region is a C function (`GOMP_parallel`).
Loops are compiled as C functions too, so the threads that multiply matrices run them. Where there is no such
library a loop runs on the calling thread.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import types

from newleaf.kernels.atomics import atomic_add, call_loop_body
from newleaf.kernels.compile_cache import cached_callback
from newleaf.kernels.load_store import load_long

HEAD = 4  # places of a call's table before the loop's own: the next row, rows, rows in a chunk, the loop
BODY = types.void(types.int64, types.int64, types.int64)

Loop = Callable[..., None]


def _process_chunks(table: Any) -> None:
    """What each thread does."""
    rows, chunk, body = load_long(table + 8), load_long(table + 16), load_long(table + 24)
    while True:
        first = atomic_add(table, chunk)
        if first >= rows:
            return
        call_loop_body(body, table + 8 * HEAD, first, min(first + chunk, rows))


@functools.cache
def _thread_body() -> Any:
    return cached_callback(types.void(types.int64), _process_chunks)


def parallel(body: Callable[[int, int, int], None]) -> Loop:
    """A function of a loop `body(table, first, last)`: call(rows, chunk, *values) runs it on all rows, a
    chunk at a time.

    `table` is the address of `values`, integers that are mostly addresses. Threads take chunks as they come,
    so a result must not depend on who took which; what is summed over rows is kept per chunk and summed
    afterwards. It is compiled when first called.
    """
    compiled: list[Any] = []

    @functools.wraps(body)
    def call(rows: int, chunk: int, *values: int) -> None:
        if not compiled:
            compiled.append(cached_callback(BODY, body))
        table = np.array((0, rows, chunk, compiled[0].address, *values), dtype=np.int64)
        threads = min(torch.get_num_threads(), -(-rows // chunk))
        enter = _parallel_region() if threads > 1 else None
        if enter is None:
            _thread_body().ctypes(table.ctypes.data)
        else:
            enter(_thread_body().address, table.ctypes.data, threads, 0)

    return call


@functools.cache
def _parallel_region() -> Any:
    """GNU OpenMP's entry in the library that PyTorch itself has loaded, or None."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    loaded = {line.split()[-1] for line in maps.read_text("utf-8").splitlines() if "libgomp" in line}
    try:
        enter = ctypes.CDLL(loaded.pop()).GOMP_parallel if len(loaded) == 1 else None
    except (OSError, AttributeError):
        return None
    if enter is not None:
        enter.argtypes, enter.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return enter
