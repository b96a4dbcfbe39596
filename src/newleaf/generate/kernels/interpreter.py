"""Running a lowered program: each thread walks through the steps and computes its share of each.

Threads wait for each other at a barrier where the next step needs the results of all.
"""

from __future__ import annotations

from typing import Any

from newleaf.generate.kernels.attention_steps import attention, rope_and_store_kv
from newleaf.generate.kernels.embedding import embed
from newleaf.generate.kernels.layout import MAX_THREADS, Barrier, Op, State, Step
from newleaf.generate.kernels.linear_step import linear
from newleaf.generate.kernels.vector_steps import run_vector_step
from newleaf.kernels.atomics import atomic_add, atomic_load, atomic_store, call_function, spin_pause
from newleaf.kernels.compile_cache import cached_kernel
from newleaf.kernels.compiler import kernel

SPINS_BEFORE_YIELD = 64  # about a microsecond


@cached_kernel
def run(steps: Any, matrices: Any, buffers: Any, state: Any, thread: Any, seen: Any, max_spins: Any) -> Any:
    """Thread 0 runs the program once and returns. The other threads wait for starts and run it with thread 0.

    State.ROWS tokens, positions and slots must stand in the state. The first State.THREADS of all threads
    take part. `seen` is the number of the last start that the thread has seen, and so is the result. A thread
    returns when it does not take part, or when no start comes within `max_spins`. It returns −1 when it must
    stop.
    """
    generation, spins = state[State.SELF] + 8 * State.GENERATION, 0
    if thread == 0:
        state[State.ARRIVED_BEFORE] = atomic_load(state[State.SELF] + 8 * State.ARRIVED)
        atomic_store(generation, (seen + 1) * MAX_THREADS + state[State.THREADS])
    while spins < max_spins:
        if atomic_load(state[State.SELF] + 8 * State.STOP):
            return -1
        started = atomic_load(generation)
        if started // MAX_THREADS > seen:
            seen = started // MAX_THREADS
            if thread >= started % MAX_THREADS:
                return seen
            run_program(steps, matrices, buffers, state, thread)
            spins = 0
            if thread == 0:
                return seen
        elif atomic_load(state[State.SELF] + 8 * State.SLEEP):
            return seen
        spin_pause()
        spins += 1
    return seen


@kernel
def run_program(steps: Any, matrices: Any, buffers: Any, state: Any, thread: Any) -> None:
    """One thread's share of all steps."""
    threads, shared = state[State.THREADS], state[State.ROWS] > 1
    arrivals = state[State.ARRIVED_BEFORE]
    for number in range(steps.shape[0]):
        step = steps[number]
        op = step[Step.OP]
        rows = state[State.LOGIT_ROWS] if step[Step.LOGIT_ROWS_ONLY] else state[State.ROWS]
        if op == Op.LINEAR:
            linear(step, matrices, buffers, state, thread, rows)
        elif op == Op.ATTENTION:
            attention(step, buffers, state, thread)
        elif op == Op.ROPE:
            rope_and_store_kv(step, buffers, state, thread)
        elif op == Op.EMBED:
            embed(step, matrices, buffers, state, thread)
        else:
            # While there is one row, each thread computes small vectors for itself: that saves a barrier.
            first, end = (rows * thread // threads, rows * (thread + 1) // threads) if shared else (0, rows)
            for row in range(first, end):
                run_vector_step(step, buffers, row, 0 if shared else thread)
        barrier = step[Step.BARRIER]
        if barrier == Barrier.ALWAYS or (barrier == Barrier.IF_SHARED and shared):
            arrivals += threads
            barrier_wait(state, arrivals)


@kernel
def barrier_wait(state: Any, arrivals: Any) -> None:
    """Wait until all threads have arrived. It spins, since a barrier takes less time than a sleep."""
    arrived = state[State.SELF] + 8 * State.ARRIVED
    spins = 0
    if atomic_add(arrived, 1) + 1 < arrivals:
        while atomic_load(arrived) < arrivals:
            spin_pause()
            spins += 1
            if spins > SPINS_BEFORE_YIELD and state[State.YIELD]:
                call_function(state[State.YIELD])
