"""Rows of buffers, and the tokens, positions and slots of a run."""

from __future__ import annotations

from typing import Any

from newleaf.generate.kernels.layout import Buffer, State
from newleaf.kernels.compiler import kernel


@kernel
def row_address(buffers: Any, buffer: Any, row: Any, thread: Any) -> Any:
    """Address of a row of a buffer, in the thread's own copy where there is one."""
    return (
        buffers[buffer, Buffer.ADDRESS]
        + row * buffers[buffer, Buffer.STRIDE]
        + thread * buffers[buffer, Buffer.THREAD_STRIDE]
    )


@kernel
def token_of(state: Any, row: Any) -> Any:
    return state[State.TOKENS + row]


@kernel
def position_of(state: Any, row: Any) -> Any:
    return state[State.TOKENS + state[State.MAX_ROWS] + row]


@kernel
def slot_of(state: Any, row: Any) -> Any:
    return state[State.TOKENS + 2 * state[State.MAX_ROWS] + row]


@kernel
def scratch_of(state: Any, thread: Any) -> Any:
    """Address of a thread's scratch memory."""
    return state[State.SCRATCH] + thread * state[State.SCRATCH_STRIDE]
