"""What kernels of several threads are made of: shared integers, calls, a hint that a loop waits."""

from __future__ import annotations

from typing import Any

from newleaf.kernels.llvm_vectors import I32, I64, call_intrinsic, pointer_to
from newleaf.kernels.numba_internals import Machine, instruction, ir, types


@instruction(types.int64, types.int64, types.int64)
def atomic_add(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """Add to a shared integer; returns what it was."""
    return b.atomic_rmw("add", pointer_to(b, address, I64), value, "seq_cst")


@instruction(types.int64, types.int64)
def atomic_load(b: Any, machine: Machine, address: Any) -> Any:
    return b.load_atomic(pointer_to(b, address, I64), "seq_cst", 8)


@instruction(types.void, types.int64, types.int64)
def atomic_store(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store_atomic(value, pointer_to(b, address, I64), "seq_cst", 8)


@instruction(types.void, types.int64)
def call_function(b: Any, machine: Machine, address: Any) -> Any:
    """Call a C function without arguments."""
    b.call(pointer_to(b, address, ir.FunctionType(I32, [])), [])


@instruction(types.void, types.int64, types.int64, types.int64, types.int64)
def call_loop_body(b: Any, machine: Machine, address: Any, table: Any, first: Any, last: Any) -> Any:
    """Call a compiled loop: see `pool`."""
    b.call(pointer_to(b, address, ir.FunctionType(ir.VoidType(), [I64, I64, I64])), [table, first, last])


@instruction(types.void)
def spin_pause(b: Any, machine: Machine) -> Any:
    """A hint that this is a loop that waits."""
    if machine.x86:
        call_intrinsic(b, "llvm.x86.sse2.pause", ir.VoidType())
    elif machine.arm:
        call_intrinsic(b, "llvm.aarch64.hint", ir.VoidType(), I32(1))
