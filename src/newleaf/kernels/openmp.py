"""Compiled loops on the threads of PyTorch's own OpenMP pool.

A second pool would compete with PyTorch's threads, which spin while they wait. PyTorch's Linux wheels carry
GNU's OpenMP, whose entry to a parallel region is a C function (`GOMP_parallel`). Loops are compiled as C
functions too, so the threads that multiply matrices run them. Without that library a loop runs on the calling
thread.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import types

from newleaf.kernels.atomics import atomic_add, call_loop_body
from newleaf.kernels.compile_cache import cached_callback
from newleaf.kernels.load_store import int_argument

BODY = types.void(types.int64, types.int64, types.int64)

Loop = Callable[..., None]


class Call(IntEnum):
    """The table of a call: what threads divide the rows by, then the loop's own arguments."""

    NEXT_ROW = 0  # the first row that no thread has taken
    ROWS = 1
    CHUNK = 2
    BODY = 3  # address of the compiled loop
    ARGUMENTS = 4


def _process_chunks(table: Any) -> None:
    """What each thread runs: it takes chunks until none is left."""
    rows, chunk = int_argument(table, Call.ROWS), int_argument(table, Call.CHUNK)
    body = int_argument(table, Call.BODY)
    while True:
        first = atomic_add(table + 8 * Call.NEXT_ROW, chunk)
        if first >= rows:
            return
        call_loop_body(body, table + 8 * Call.ARGUMENTS, first, min(first + chunk, rows))


@functools.cache
def _thread_body() -> Any:
    return cached_callback(types.void(types.int64), _process_chunks)


def parallel(arguments: type[IntEnum]) -> Callable[[Callable[[int, int, int], None]], Loop]:
    """Make call(rows, chunk, *values) of a loop `body(table, first, last)`: it runs on all rows, by chunks.

    `values` are integers, mostly addresses, in the order of `arguments`; the body reads them from `table` by
    these names. Threads take chunks as they come, so a result must not depend on which thread took which.
    What is summed over rows is kept per chunk and summed afterwards. The body is compiled at the first call.
    """

    def make(body: Callable[[int, int, int], None]) -> Loop:
        compiled: list[Any] = []

        @functools.wraps(body)
        def call(rows: int, chunk: int, *values: int) -> None:
            if len(values) != len(arguments):
                raise TypeError(f"{body.__name__} takes {len(arguments)} arguments, not {len(values)}")
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

    return make


@functools.cache
def _parallel_region() -> Any:
    """`GOMP_parallel` of the library that PyTorch has loaded, or None."""
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
