"""Vectors of sixteen 32-bit lanes for Numba, and the few instructions the kernels are made of.

A value of type `F` holds 16 floats and one of type `I` 16 integers, or the 64 bytes they are made of. LLVM keeps one in a single register
where the machine has AVX-512, in two with AVX2, and in four with NEON; nothing above this file knows which.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from newleaf.kernels.machine import Machine

LANES = 16
BYTES = 4 * LANES


class Vector(types.Type):
    """A Numba type that is one LLVM vector."""


F = Vector("f32x16")
I = Vector("i32x16")  # noqa: E741

_i8, _i16, _i32, _i64, _f32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_floats, _ints = ir.VectorType(_f32, LANES), ir.VectorType(_i32, LANES)
_halves, _shorts, _bytes16 = ir.VectorType(ir.HalfType(), LANES), ir.VectorType(_i16, LANES), ir.VectorType(_i8, LANES)


class _BFloat(ir.Type):
    """LLVM's bfloat, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_bfloats = ir.VectorType(_BFloat(), LANES)
_LLVM = {F: _floats, I: _ints, types.int64: _i64, types.int32: _i32, types.float32: _f32, types.void: ir.VoidType()}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _LLVM[kind])


def instruction(result: types.Type, *arguments: types.Type) -> Callable[[Callable[..., Any]], Any]:
    """Make an operation for kernels out of a function that writes its LLVM code: emit(builder, machine, *values) → value."""

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


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    """Call an LLVM intrinsic by its name."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return builder.call(builder.module.declare_intrinsic(name, fnty=kind), values)


def _spread(builder: Any, value: Any, kind: Any) -> Any:
    """One value in every lane."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _i32(0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_i32, kind.count), [0] * kind.count))


def _constant(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


# ---- memory: addresses are plain integers


@instruction(F, types.int64)
def load(b: Any, machine: Machine, address: Any) -> Any:
    """16 floats."""
    return b.load(_at(b, address, _floats), align=4)


@instruction(I, types.int64)
def load_bits(b: Any, machine: Machine, address: Any) -> Any:
    """64 bytes."""
    return b.load(_at(b, address, _ints), align=4)


@instruction(F, types.int64)
def load_half(b: Any, machine: Machine, address: Any) -> Any:
    """16 fp16 numbers as floats: vcvtph2ps, fcvtl."""
    return b.fpext(b.load(_at(b, address, _halves), align=2), _floats)


@instruction(F, types.int64)
def load_bfloat(b: Any, machine: Machine, address: Any) -> Any:
    """16 bf16 numbers as floats, whose upper halves they are: vpmovzxwd, vpslld."""
    wide = b.zext(b.load(_at(b, address, _shorts), align=2), _ints)
    return b.bitcast(b.shl(wide, _constant(_ints, 16)), _floats)


@instruction(F, types.int64)
def load_signed_bytes(b: Any, machine: Machine, address: Any) -> Any:
    """16 signed bytes as floats: vpmovsxbd, vcvtdq2ps."""
    return b.sitofp(b.sext(b.load(_at(b, address, _bytes16), align=1), _ints), _floats)


@instruction(types.void, types.int64, F)
def store(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, _at(b, address, _floats), align=4)


@instruction(types.void, types.int64, I)
def store_low_bytes(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """The lowest byte of each lane, 16 bytes: vpmovdb."""
    b.store(b.trunc(value, _bytes16), _at(b, address, _bytes16), align=1)


@instruction(types.void, types.int64, F)
def store_bfloat(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """16 floats rounded to bf16, to the even neighbour: 32 bytes; vcvtneps2bf16 where there is one."""
    if machine.has("avx512bf16", "avx512f"):
        rounded = b.bitcast(_call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", _bfloats, value), _shorts)
        b.store(rounded, _at(b, address, _shorts), align=2)
        return
    bits = b.bitcast(value, _ints)
    odd = b.and_(b.lshr(bits, _constant(_ints, 16)), _constant(_ints, 1))
    rounded = b.lshr(b.add(b.add(bits, _constant(_ints, 0x7FFF)), odd), _constant(_ints, 16))
    b.store(b.trunc(rounded, _shorts), _at(b, address, _shorts), align=2)


@instruction(types.int32, types.int64)
def load_int(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(_at(b, address, _i32), align=1)


@instruction(types.int64, types.int64)
def load_long(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(_at(b, address, _i64), align=8)


def _entry(b: Any, table: Any, number: Any) -> Any:
    return b.add(table, b.shl(number, _i64(3)))


@instruction(types.int64, types.int64, types.int64)
def given(b: Any, machine: Machine, table: Any, number: Any) -> Any:
    """One of the values that a loop was called with: see `pool`."""
    return b.load(_at(b, _entry(b, table, number), _i64), align=8)


@instruction(types.float32, types.int64, types.int64)
def fraction(b: Any, machine: Machine, table: Any, number: Any) -> Any:
    """One that stands there as an fp32's bits."""
    return b.load(_at(b, _entry(b, table, number), _f32), align=4)


@instruction(types.int64, types.int64)
def load_byte(b: Any, machine: Machine, address: Any) -> Any:
    """One unsigned byte."""
    return b.zext(b.load(_at(b, address, _i8)), _i64)


@instruction(types.float32, types.int64)
def load_float(b: Any, machine: Machine, address: Any) -> Any:
    return b.load(_at(b, address, _f32), align=4)


@instruction(types.float32, types.int64)
def load_one_half(b: Any, machine: Machine, address: Any) -> Any:
    return b.fpext(b.load(_at(b, address, ir.HalfType()), align=2), _f32)


@instruction(types.float32, types.int64)
def load_one_bfloat(b: Any, machine: Machine, address: Any) -> Any:
    return b.bitcast(b.shl(b.zext(b.load(_at(b, address, _i16), align=2), _i32), _i32(16)), _f32)


@instruction(types.void, types.int64, types.float32)
def store_float(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, _at(b, address, _f32), align=4)


@instruction(types.void, types.int64, types.float32)
def store_one_bfloat(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    bits = b.bitcast(value, _i32)
    odd = b.and_(b.lshr(bits, _i32(16)), _i32(1))
    rounded = b.lshr(b.add(b.add(bits, _i32(0x7FFF)), odd), _i32(16))
    b.store(b.trunc(rounded, _i16), _at(b, address, _i16), align=2)


@instruction(types.void, types.int64, types.int64)
def store_byte(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """The lowest byte."""
    b.store(b.trunc(value, _i8), _at(b, address, _i8), align=1)


@instruction(types.int64, types.float32)
def nearest(b: Any, machine: Machine, value: Any) -> Any:
    """The nearest integer, ties to even."""
    return b.fptosi(_call(b, "llvm.rint.f32", _f32, value), _i64)


@instruction(types.void, types.int64, types.int32)
def store_int(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, _at(b, address, _i32), align=4)


@instruction(types.void, types.int64)
def prefetch(b: Any, machine: Machine, address: Any) -> Any:
    """Ask for a cache line that will be read once."""
    pointer = _at(b, address, _i8)
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _i32, _i32, _i32])
    b.call(b.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind), [pointer, _i32(0), _i32(3), _i32(1)])


# ---- lanes


@instruction(F, types.float32)
def spread(b: Any, machine: Machine, value: Any) -> Any:
    """One float in every lane: vbroadcastss."""
    return _spread(b, value, _floats)


@instruction(I, types.int32)
def spread_int(b: Any, machine: Machine, value: Any) -> Any:
    """One integer, or four bytes, in every lane: vpbroadcastd."""
    return _spread(b, value, _ints)


@instruction(F, I)
def as_floats(b: Any, machine: Machine, bits: Any) -> Any:
    """The same bits, read as floats."""
    return b.bitcast(bits, _floats)


@instruction(types.float32, types.int64)
def float_of(b: Any, machine: Machine, bits: Any) -> Any:
    """A float from the bits that a table holds."""
    return b.bitcast(b.trunc(bits, _i32), _f32)


@instruction(types.int64, types.float32)
def bits_of(b: Any, machine: Machine, value: Any) -> Any:
    return b.zext(b.bitcast(value, _i32), _i64)


@instruction(types.void, types.int64, types.int64)
def store_long(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store(value, _at(b, address, _i64), align=8)


@instruction(I, F)
def as_bits(b: Any, machine: Machine, value: Any) -> Any:
    return b.bitcast(value, _ints)


@instruction(F, I)
def to_floats(b: Any, machine: Machine, value: Any) -> Any:
    """Signed integers as floats: vcvtdq2ps."""
    return b.sitofp(value, _floats)


@instruction(I, F)
def to_nearest(b: Any, machine: Machine, value: Any) -> Any:
    """The nearest integers, ties to even."""
    return b.fptosi(_call(b, "llvm.rint.v16f32", _floats, value), _ints)


@instruction(F, F, F, F)
def fma(b: Any, machine: Machine, x: Any, y: Any, z: Any) -> Any:
    """x · y + z, rounded once."""
    return _call(b, "llvm.fma.v16f32", _floats, x, y, z)


@instruction(F, F, types.int32, F)
def first_lanes(b: Any, machine: Machine, value: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of one vector, the rest of another."""
    inside = b.icmp_signed("<", ir.Constant(_ints, list(range(LANES))), _spread(b, count, _ints))
    return b.select(inside, value, other)


@instruction(F, F)
def reciprocal(b: Any, machine: Machine, value: Any) -> Any:
    """1 / x, to about one unit in the last place: where division is slow, vrcp14ps and one of Newton's steps."""
    one = ir.Constant(_floats, [1.0] * LANES)
    if not machine.has("avx512f"):
        return b.fdiv(one, value)
    rough = _call(b, "llvm.x86.avx512.rcp14.ps.512", _floats, value, ir.Constant(_floats, [0.0] * LANES), _i16(-1))
    error = _call(b, "llvm.fma.v16f32", _floats, b.fneg(value), rough, one)
    return _call(b, "llvm.fma.v16f32", _floats, rough, error, rough)


@instruction(F, F)
def absolute(b: Any, machine: Machine, value: Any) -> Any:
    return _call(b, "llvm.fabs.v16f32", _floats, value)


@instruction(F, F, F)
def larger(b: Any, machine: Machine, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@instruction(F, F, F)
def smaller(b: Any, machine: Machine, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def _fold(b: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes in one: halves on halves, always in the same order."""
    for width in (8, 4, 2, 1):
        order = ir.Constant(_ints, [(lane + width) % LANES for lane in range(LANES)])
        value = join(value, b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), order))
    return b.extract_element(value, _i32(0))


@instruction(types.float32, F)
def total(b: Any, machine: Machine, value: Any) -> Any:
    """The sum of the lanes."""
    return _fold(b, value, b.fadd)


@instruction(types.void, types.int64, F, F, F, F)
def store_totals(b: Any, machine: Machine, address: Any, *vectors: Any) -> Any:
    """The sums of four vectors' lanes, each added up as `total` does, 16 bytes: halves stand side by side while they are added."""

    def halved(left: Any, right: Any, width: int) -> Any:
        """Where `width` lanes of each sum are left, half as many, those of `right` behind those of `left`."""
        starts = range(0, 2 * LANES, width)
        low = [start + lane for start in starts for lane in range(width // 2)]
        orders = (ir.Constant(_ints, [at + shift for at in low]) for shift in (0, width // 2))
        return b.fadd(*(b.shuffle_vector(left, right, order) for order in orders))

    x, y, z, w = vectors
    four = halved(halved(x, y, 16), halved(z, w, 16), 8)  # x x x x y y y y …
    two = halved(four, four, 4)  # x x y y z z w w and again
    one = halved(two, two, 2)
    sums = b.shuffle_vector(one, one, ir.Constant(ir.VectorType(_i32, 4), [0, 1, 2, 3]))
    b.store(sums, _at(b, address, sums.type), align=4)


@instruction(types.float32, F)
def largest(b: Any, machine: Machine, value: Any) -> Any:
    return _fold(b, value, lambda x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@instruction(types.int32, I)
def total_int(b: Any, machine: Machine, value: Any) -> Any:
    return _fold(b, value, b.add)


@instruction(I, I, I)
def look_up(b: Any, machine: Machine, table: Any, codes: Any) -> Any:
    """Bytes of `table`, 16 of them four times over, at the numbers 0 … 15 in the bytes of `codes`: vpshufb, tbl."""
    wide = ir.VectorType(_i8, BYTES)
    if machine.has("avx512bw"):
        return b.bitcast(_call(b, "llvm.x86.avx512.pshuf.b.512", wide, b.bitcast(table, wide), b.bitcast(codes, wide)), _ints)
    count, name = (2, "llvm.x86.avx2.pshuf.b") if machine.x86 and machine.has("avx2") else (4, "llvm.aarch64.neon.tbl1.v16i8")
    if count == 2 or machine.arm:
        kind = ir.VectorType(_i8, BYTES // count)
        pairs = zip(_parts(b, table, kind, count), _parts(b, codes, kind, count), strict=True)
        words = ir.VectorType(_i32, LANES // count)
        return _joined(b, [b.bitcast(_call(b, name, kind, values, numbers), words) for values, numbers in pairs])
    values, numbers, found = b.bitcast(table, wide), b.bitcast(codes, wide), _constant(wide, 0)
    for code in range(16):
        value = _spread(b, b.extract_element(values, _i32(code)), wide)
        found = b.select(b.icmp_unsigned("==", numbers, _constant(wide, code)), value, found)
    return b.bitcast(found, _ints)


@instruction(I, I, I, I)
def dot4(b: Any, machine: Machine, acc: Any, codes: Any, x: Any) -> Any:
    """acc + Σ of four unsigned bytes times four signed ones, in each lane; exact on every machine.

    codes   | u u u u | u u u u | …   16 lanes of four columns of one row
    x       | s s s s | s s s s | …   the same four inputs in every lane
    """
    if machine.has("avx512vnni", "avx512f"):  # vpdpbusd on 64 bytes
        wide = ir.VectorType(_i8, BYTES)
        return _call(b, "llvm.x86.avx512.vpdpbusd.512", _ints, acc, b.bitcast(codes, wide), b.bitcast(x, wide))
    if machine.x86 and machine.has("avxvnni"):  # the same on 32 bytes
        parts = zip(*(_parts(b, value, ir.VectorType(_i32, 8), 2) for value in (acc, codes, x)), strict=True)
        half = ir.VectorType(_i8, 32)
        name = "llvm.x86.avx512.vpdpbusd.256"
        sums = [_call(b, name, a.type, a, b.bitcast(u, half), b.bitcast(s, half)) for a, u, s in parts]
        return _joined(b, sums)
    if machine.x86 and machine.has("avx2"):
        return b.add(acc, _dot4_by_words(b, codes, x))
    if machine.arm and machine.has("dotprod"):
        return _dot4_arm(b, acc, codes, x)
    for byte in range(4):
        left = b.and_(b.lshr(codes, _constant(_ints, 8 * byte)), _constant(_ints, 255))
        right = b.ashr(b.shl(x, _constant(_ints, 24 - 8 * byte)), _constant(_ints, 24))
        acc = b.add(acc, b.mul(left, right))
    return acc


def _parts(b: Any, value: Any, kind: Any, count: int) -> list[Any]:
    """A vector cut into `count` vectors of LLVM type `kind`."""
    each = LANES // count
    undefined = ir.Constant(_ints, ir.Undefined)
    cuts = [ir.Constant(ir.VectorType(_i32, each), list(range(n * each, (n + 1) * each))) for n in range(count)]
    return [b.bitcast(b.shuffle_vector(value, undefined, cut), kind) for cut in cuts]


def _joined(b: Any, parts: list[Any]) -> Any:
    """The parts as one vector again."""
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        order = ir.Constant(ir.VectorType(_i32, width), list(range(width)))
        parts = [b.shuffle_vector(low, high, order) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _dot4_by_words(b: Any, codes: Any, x: Any) -> Any:
    """Even and odd bytes widened to 16 bits, then vpmaddwd twice: unlike vpmaddubsw it never saturates."""
    words = ir.VectorType(_i16, LANES)
    eight, low = _constant(words, 8), _constant(words, 255)
    sums = []
    for u, s in zip(_parts(b, codes, words, 2), _parts(b, x, words, 2), strict=True):
        pairs = ((b.and_(u, low), b.ashr(b.shl(s, eight), eight)), (b.lshr(u, eight), b.ashr(s, eight)))
        even, odd = (_call(b, "llvm.x86.avx2.pmadd.wd", ir.VectorType(_i32, 8), left, right) for left, right in pairs)
        sums.append(b.add(even, odd))
    return _joined(b, sums)


def _dot4_arm(b: Any, acc: Any, codes: Any, x: Any) -> Any:
    """sdot takes signed bytes only: codes less 128 are, and 128 · Σ x, by sdot too, puts it right."""
    quad, four = ir.VectorType(_i8, 16), ir.VectorType(_i32, 4)
    out = []
    for a, u, s in zip(_parts(b, acc, four, 4), _parts(b, codes, quad, 4), _parts(b, x, quad, 4), strict=True):
        signed = b.xor(u, _constant(quad, 0x80))
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        offset = _call(b, name, four, _constant(four, 0), _constant(quad, 1), s)
        out.append(b.add(_call(b, name, four, a, signed, s), b.shl(offset, _constant(four, 7))))
    return _joined(b, out)


# ---- threads


@instruction(types.int64, types.int64, types.int64)
def atomic_add(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    """Add to a shared integer; returns what it was."""
    return b.atomic_rmw("add", _at(b, address, _i64), value, "seq_cst")


@instruction(types.int64, types.int64)
def atomic_load(b: Any, machine: Machine, address: Any) -> Any:
    return b.load_atomic(_at(b, address, _i64), "seq_cst", 8)


@instruction(types.void, types.int64, types.int64)
def atomic_store(b: Any, machine: Machine, address: Any, value: Any) -> Any:
    b.store_atomic(value, _at(b, address, _i64), "seq_cst", 8)


@instruction(types.void, types.int64)
def call(b: Any, machine: Machine, address: Any) -> Any:
    """Call a C function without arguments."""
    b.call(_at(b, address, ir.FunctionType(_i32, [])), [])


@instruction(types.void, types.int64, types.int64, types.int64, types.int64)
def call_loop(b: Any, machine: Machine, address: Any, table: Any, first: Any, last: Any) -> Any:
    """Call a compiled loop: see `pool`."""
    b.call(_at(b, address, ir.FunctionType(ir.VoidType(), [_i64, _i64, _i64])), [table, first, last])


@instruction(types.void)
def pause(b: Any, machine: Machine) -> Any:
    """A hint that this is a loop that waits."""
    if machine.x86:
        _call(b, "llvm.x86.sse2.pause", ir.VoidType())
    elif machine.arm:
        _call(b, "llvm.aarch64.hint", ir.VoidType(), _i32(1))
