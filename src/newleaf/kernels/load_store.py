"""Loads and stores of kernels: addresses are integers, and the alignment is that of one number."""

from __future__ import annotations

from typing import Any

from newleaf.kernels.llvm_vectors import (
    BFLOATS,
    BYTES16,
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    I32,
    I64,
    INTS,
    SHORTS,
    F,
    I,
    call_intrinsic,
    constant,
    pointer_to,
)
from newleaf.kernels.numba_internals import Machine, instruction, ir, types


@instruction(F, types.int64)
def load(b: Any, machine: Machine, address: Any) -> Any:
    """16 floats."""
    return b.load(pointer_to(b, address, FLOATS), align=4)


@instruction(I, types.int64)
def load_bits(b: Any, machine: Machine, address: Any) -> Any:
    """64 bytes."""
    return b.load(pointer_to(b, address, INTS), align=4)


@instruction(F, types.int64)
def load_fp16(b: Any, machine: Machine, address: Any) -> Any:
    """16 fp16 numbers as floats: vcvtph2ps, fcvtl."""
    return b.fpext(b.load(pointer_to(b, address, HALVES), align=2), FLOATS)


@instruction(F, types.int64)
def load_bf16(b: Any, machine: Machine, address: Any) -> Any:
    """16 bf16 numbers as fp32: vpmovzxwd, vpslld."""
    wide = b.zext(b.load(pointer_to(b, address, SHORTS), align=2), INTS)
    return b.bitcast(b.shl(wide, constant(INTS, 16)), FLOATS)


@instruction(F, types.int64)
def load_signed_bytes(b: Any, machine: Machine, address: Any) -> Any:
    """16 signed bytes as floats: vpmovsxbd, vcvtdq2ps."""
    return b.sitofp(b.sext(b.load(pointer_to(b, address, BYTES16), align=1), INTS), FLOATS)


@instruction(types.void, types.int64, F)
def store(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, pointer_to(b, address, FLOATS), align=4)


@instruction(types.void, types.int64, I)
def store_low_bytes(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """The lowest byte of each lane, 16 bytes: vpmovdb."""
    b.store(b.trunc(value, BYTES16), pointer_to(b, address, BYTES16), align=1)


@instruction(types.void, types.int64, F)
def store_bf16(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """16 floats rounded to bf16, ties to even: vcvtneps2bf16 where the machine has it."""
    if machine.has("avx512bf16", "avx512f"):
        rounded = b.bitcast(call_intrinsic(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", BFLOATS, value), SHORTS)
        b.store(rounded, pointer_to(b, address, SHORTS), align=2)
        return
    bits = b.bitcast(value, INTS)
    odd = b.and_(b.lshr(bits, constant(INTS, 16)), constant(INTS, 1))
    rounded = b.lshr(b.add(b.add(bits, constant(INTS, 0x7FFF)), odd), constant(INTS, 16))
    b.store(b.trunc(rounded, SHORTS), pointer_to(b, address, SHORTS), align=2)


@instruction(types.int32, types.int64)
def load_int(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(pointer_to(b, address, I32), align=1)


@instruction(types.int64, types.int64)
def load_long(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(pointer_to(b, address, I64), align=8)


def _argument_address(b: Any, table: Any, number: Any) -> Any:
    return b.add(table, b.shl(number, I64(3)))


@instruction(types.int64, types.int64, types.int64)
def int_argument(b: Any, machine: Machine, table: Any, number: Any) -> Any:
    """An argument of a loop (see openmp.py), by its column."""
    return b.load(pointer_to(b, _argument_address(b, table, number), I64), align=8)


@instruction(types.float32, types.int64, types.int64)
def float_argument(b: Any, machine: Machine, table: Any, number: Any) -> Any:
    """An argument that was passed as the bits of an fp32 number."""
    return b.load(pointer_to(b, _argument_address(b, table, number), F32), align=4)


@instruction(types.int64, types.int64)
def load_byte(b: Any, machine: Machine, address: Any) -> Any:
    """One unsigned byte."""
    return b.zext(b.load(pointer_to(b, address, I8)), I64)


@instruction(types.float32, types.int64)
def load_float(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(pointer_to(b, address, F32), align=4)


@instruction(types.float32, types.int64)
def load_one_fp16(b: Any, machine: Machine, address: Any) -> Any:
    return b.fpext(b.load(pointer_to(b, address, ir.HalfType()), align=2), F32)


@instruction(types.float32, types.int64)
def load_one_bf16(b: Any, machine: Machine, address: Any) -> Any:
    return b.bitcast(b.shl(b.zext(b.load(pointer_to(b, address, I16), align=2), I32), I32(16)), F32)


@instruction(types.void, types.int64, types.float32)
def store_float(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, pointer_to(b, address, F32), align=4)


@instruction(types.void, types.int64, types.float32)
def store_one_bf16(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    bits = b.bitcast(value, I32)
    odd = b.and_(b.lshr(bits, I32(16)), I32(1))
    rounded = b.lshr(b.add(b.add(bits, I32(0x7FFF)), odd), I32(16))
    b.store(b.trunc(rounded, I16), pointer_to(b, address, I16), align=2)


@instruction(types.void, types.int64, types.int64)
def store_byte(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """The lowest byte."""
    b.store(b.trunc(value, I8), pointer_to(b, address, I8), align=1)


@instruction(types.void, types.int64, types.int32)
def store_int(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, pointer_to(b, address, I32), align=4)


@instruction(types.void, types.int64, types.int64)
def store_long(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, pointer_to(b, address, I64), align=8)


@instruction(types.void, types.int64)
def prefetch(b: Any, machine: Machine, address: Any) -> Any:
    """Prefetch a cache line that will be read once."""
    pointer = pointer_to(b, address, I8)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    b.call(
        b.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind), [pointer, I32(0), I32(3), I32(1)]
    )
