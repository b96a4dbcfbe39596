"""Vectors of sixteen 32-bit lanes for Numba, and how an instruction for kernels is made: a function that
writes its LLVM code.

A value of type `F` holds 16 floats and one of type `I` 16 integers, or the 64 bytes they are made of. LLVM
keeps one in a single register where the machine has AVX-512, in two with AVX2, and in four with NEON; nothing
above this file knows which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from newleaf.kernels.instruction_set import Machine

LANES = 16
BYTES = 4 * LANES


class Vector(types.Type):
    """A Numba type that is one LLVM vector."""


F = Vector("f32x16")
I = Vector("i32x16")  # noqa: E741

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
_LLVM = {
    F: FLOATS,
    I: INTS,
    types.int64: I64,
    types.int32: I32,
    types.float32: F32,
    types.void: ir.VoidType(),
}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _LLVM[kind])


def instruction(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Any]], Any]:
    """Make an operation for kernels out of a function that writes its LLVM code: emit(builder, machine,
    *values) → value."""

    def make(emit: Callable[..., Any]) -> Any:
        def typed() -> Any:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                value = emit(builder, Machine(context), *values)
                return context.get_dummy_value() if result is types.void else value

            return result(*arguments), generate

        # Numba counts an intrinsic's parameters, so there is a form for each number of them.
        forms: tuple[Callable[..., Any], ...] = (
            lambda typingctx: typed(),
            lambda typingctx, a: typed(),
            lambda typingctx, a, b: typed(),
            lambda typingctx, a, b, c: typed(),
            lambda typingctx, a, b, c, d: typed(),
            lambda typingctx, a, b, c, d, e: typed(),
        )
        form = forms[len(arguments)]
        form.__name__, form.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(form)

    return make


def _binary(symbol: Any, kind: Vector, emit: Callable[[Any, Any, Any], Any]) -> None:
    """Teach Numba one operator between two vectors of a kind."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(kind, kind, kind) if args == (kind, kind) else None

    infer_global(symbol)(Template)
    lower_builtin(symbol, kind, kind)(lambda context, builder, sig, args: emit(builder, *args))


_binary(operator.add, F, lambda builder, a, b: builder.fadd(a, b))
_binary(operator.sub, F, lambda builder, a, b: builder.fsub(a, b))
_binary(operator.mul, F, lambda builder, a, b: builder.fmul(a, b))
_binary(operator.truediv, F, lambda builder, a, b: builder.fdiv(a, b))
_binary(operator.add, I, lambda builder, a, b: builder.add(a, b))
_binary(operator.sub, I, lambda builder, a, b: builder.sub(a, b))
_binary(operator.and_, I, lambda builder, a, b: builder.and_(a, b))
_binary(operator.or_, I, lambda builder, a, b: builder.or_(a, b))
_binary(operator.lshift, I, lambda builder, a, b: builder.shl(a, b))
_binary(operator.rshift, I, lambda builder, a, b: builder.lshr(a, b))


def invoke(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an LLVM intrinsic by its name."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), values)


def spread_value(builder: Any, value: Any, kind: Any) -> Any:
    """One value in every lane."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    )


def constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())
