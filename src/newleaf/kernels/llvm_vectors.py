"""Vectors of sixteen 32-bit lanes, as LLVM types and as Numba types, and helpers that emit LLVM code.

A value of type `F` holds 16 floats and one of type `I` 16 integers, or the 64 bytes they are made of. LLVM
keeps one in a single register where the machine has AVX-512, in two with AVX2, and in four with NEON; nothing
above this file knows which.
"""

from __future__ import annotations

import operator
from typing import Any

from newleaf.kernels.numba_internals import define_operator, define_vector, ir

LANES = 16
BYTES = 4 * LANES


I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
HALVES, SHORTS, BYTES16 = (
    ir.VectorType(ir.HalfType(), LANES),
    ir.VectorType(I16, LANES),
    ir.VectorType(I8, LANES),
)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOATS = ir.VectorType(_BFloat(), LANES)
F = define_vector("f32x16", FLOATS)
I = define_vector("i32x16", INTS)  # noqa: E741

define_operator(operator.add, F, lambda builder, a, b: builder.fadd(a, b))
define_operator(operator.sub, F, lambda builder, a, b: builder.fsub(a, b))
define_operator(operator.mul, F, lambda builder, a, b: builder.fmul(a, b))
define_operator(operator.truediv, F, lambda builder, a, b: builder.fdiv(a, b))
define_operator(operator.add, I, lambda builder, a, b: builder.add(a, b))
define_operator(operator.sub, I, lambda builder, a, b: builder.sub(a, b))
define_operator(operator.and_, I, lambda builder, a, b: builder.and_(a, b))
define_operator(operator.or_, I, lambda builder, a, b: builder.or_(a, b))
define_operator(operator.lshift, I, lambda builder, a, b: builder.shl(a, b))
define_operator(operator.rshift, I, lambda builder, a, b: builder.lshr(a, b))


def call_intrinsic(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an LLVM intrinsic by its name."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), values)


def broadcast_value(builder: Any, value: Any, kind: Any) -> Any:
    """Broadcast one value to every lane."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    )


def constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def pointer_to(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())
