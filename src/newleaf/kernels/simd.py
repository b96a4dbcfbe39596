"""Vectors of sixteen lanes in kernels: conversions, sums, table lookups, products of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from newleaf.kernels.llvm_vectors import (
    BYTES,
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    F,
    I,
    broadcast_value,
    call_intrinsic,
    constant,
    pointer_to,
)
from newleaf.kernels.numba_internals import Machine, instruction, ir, types


@instruction(F, types.float32)
def broadcast(b: Any, machine: Machine, value: Any) -> Any:
    """One float in every lane: vbroadcastss."""
    return broadcast_value(b, value, FLOATS)


@instruction(I, types.int32)
def broadcast_int(b: Any, machine: Machine, value: Any) -> Any:
    """One integer, or four bytes, in every lane: vpbroadcastd."""
    return broadcast_value(b, value, INTS)


@instruction(F, I)
def as_floats(b: Any, machine: Machine, bits: Any) -> Any:
    """The same bits, read as floats."""
    return b.bitcast(bits, FLOATS)


@instruction(types.int64, types.float32)
def round_to_int(b: Any, machine: Machine, value: Any) -> Any:
    """The nearest integer, ties to even."""
    return b.fptosi(call_intrinsic(b, "llvm.rint.f32", F32, value), I64)


@instruction(types.float32, types.int64)
def float_from_bits(b: Any, machine: Machine, bits: Any) -> Any:
    """A float from the bits that a table holds."""
    return b.bitcast(b.trunc(bits, I32), F32)


@instruction(types.int64, types.float32)
def bits_from_float(b: Any, machine: Machine, value: Any) -> Any:
    return b.zext(b.bitcast(value, I32), I64)


@instruction(I, F)
def as_bits(b: Any, machine: Machine, value: Any) -> Any:
    return b.bitcast(value, INTS)


@instruction(F, I)
def to_floats(b: Any, machine: Machine, value: Any) -> Any:
    """Signed integers as floats: vcvtdq2ps."""
    return b.sitofp(value, FLOATS)


@instruction(I, F)
def round_to_ints(b: Any, machine: Machine, value: Any) -> Any:
    """The nearest integers, ties to even."""
    return b.fptosi(call_intrinsic(b, "llvm.rint.v16f32", FLOATS, value), INTS)


@instruction(F, F, F, F)
def fma(b: Any, machine: Machine, x: Any, y: Any, z: Any) -> Any:
    """x · y + z, rounded once."""
    return call_intrinsic(b, "llvm.fma.v16f32", FLOATS, x, y, z)


@instruction(F, F, types.int32, F)
def select_first_lanes(b: Any, machine: Machine, value: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of one vector, the rest of another."""
    inside = b.icmp_signed("<", ir.Constant(INTS, list(range(LANES))), broadcast_value(b, count, INTS))
    return b.select(inside, value, other)


@instruction(F, F)
def reciprocal(b: Any, machine: Machine, value: Any) -> Any:
    """1 / x, to about one unit in the last place: where division is slow, vrcp14ps and one of Newton's
    steps."""
    one = ir.Constant(FLOATS, [1.0] * LANES)
    if not machine.has("avx512f"):
        return b.fdiv(one, value)
    rough = call_intrinsic(
        b, "llvm.x86.avx512.rcp14.ps.512", FLOATS, value, ir.Constant(FLOATS, [0.0] * LANES), I16(-1)
    )
    error = call_intrinsic(b, "llvm.fma.v16f32", FLOATS, b.fneg(value), rough, one)
    return call_intrinsic(b, "llvm.fma.v16f32", FLOATS, rough, error, rough)


@instruction(F, F)
def absolute(b: Any, machine: Machine, value: Any) -> Any:
    return call_intrinsic(b, "llvm.fabs.v16f32", FLOATS, value)


@instruction(F, F, F)
def maximum(b: Any, machine: Machine, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@instruction(F, F, F)
def minimum(b: Any, machine: Machine, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y), x, y)


def _reduce(b: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes in one: halves on halves, always in the same order."""
    for width in (8, 4, 2, 1):
        order = ir.Constant(INTS, [(lane + width) % LANES for lane in range(LANES)])
        value = join(value, b.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), order))
    return b.extract_element(value, I32(0))


@instruction(types.float32, F)
def reduce_sum(b: Any, machine: Machine, value: Any) -> Any:
    """The sum of the lanes."""
    return _reduce(b, value, b.fadd)


@instruction(types.void, types.int64, F, F, F, F)
def store_reduced_sums(b: Any, machine: Machine, address: Any, *vectors: Any) -> Any:
    """The sums of four vectors' lanes, each added up as `reduce_sum` does, 16 bytes: halves stand side by
    side while they are added."""

    def halved(left: Any, right: Any, width: int) -> Any:
        """Where `width` lanes of each sum are left, half as many, those of `right` behind those of `left`."""
        starts = range(0, 2 * LANES, width)
        low = [start + lane for start in starts for lane in range(width // 2)]
        orders = (ir.Constant(INTS, [at + shift for at in low]) for shift in (0, width // 2))
        return b.fadd(*(b.shuffle_vector(left, right, order) for order in orders))

    x, y, z, w = vectors
    four = halved(halved(x, y, 16), halved(z, w, 16), 8)  # x x x x y y y y …
    two = halved(four, four, 4)  # x x y y z z w w and again
    one = halved(two, two, 2)
    sums = b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, 4), [0, 1, 2, 3]))
    b.store(sums, pointer_to(b, address, sums.type), align=4)


@instruction(types.float32, F)
def reduce_max(b: Any, machine: Machine, value: Any) -> Any:
    return _reduce(b, value, lambda x, y: b.select(b.fcmp_ordered(">", x, y), x, y))


@instruction(types.int32, I)
def reduce_sum_int(b: Any, machine: Machine, value: Any) -> Any:
    return _reduce(b, value, b.add)


@instruction(I, I, I)
def table_lookup(b: Any, machine: Machine, table: Any, codes: Any) -> Any:
    """Bytes of `table`, 16 of them four times over, at the numbers 0 … 15 in the bytes of `codes`: vpshufb,
    tbl."""
    wide = ir.VectorType(I8, BYTES)
    if machine.has("avx512bw"):
        return b.bitcast(
            call_intrinsic(
                b, "llvm.x86.avx512.pshuf.b.512", wide, b.bitcast(table, wide), b.bitcast(codes, wide)
            ),
            INTS,
        )
    count, name = (
        (2, "llvm.x86.avx2.pshuf.b")
        if machine.x86 and machine.has("avx2")
        else (4, "llvm.aarch64.neon.tbl1.v16i8")
    )
    if count == 2 or machine.arm:
        kind = ir.VectorType(I8, BYTES // count)
        pairs = zip(_split_vector(b, table, kind, count), _split_vector(b, codes, kind, count), strict=True)
        words = ir.VectorType(I32, LANES // count)
        return _concatenated(
            b, [b.bitcast(call_intrinsic(b, name, kind, values, numbers), words) for values, numbers in pairs]
        )
    values, numbers, found = b.bitcast(table, wide), b.bitcast(codes, wide), constant(wide, 0)
    for code in range(16):
        value = broadcast_value(b, b.extract_element(values, I32(code)), wide)
        found = b.select(b.icmp_unsigned("==", numbers, constant(wide, code)), value, found)
    return b.bitcast(found, INTS)


@instruction(I, I, I, I)
def dot_int8(b: Any, machine: Machine, acc: Any, codes: Any, x: Any) -> Any:
    """acc + Σ of four unsigned bytes times four signed ones, in each lane; exact on every machine.

    codes   | u u u u | u u u u | …   16 lanes of four columns of one row
    x       | s s s s | s s s s | …   the same four inputs in every lane
    """
    if machine.has("avx512vnni", "avx512f"):  # vpdpbusd on 64 bytes
        wide = ir.VectorType(I8, BYTES)
        return call_intrinsic(
            b, "llvm.x86.avx512.vpdpbusd.512", INTS, acc, b.bitcast(codes, wide), b.bitcast(x, wide)
        )
    if machine.x86 and machine.has("avxvnni"):  # the same on 32 bytes
        parts = zip(
            *(_split_vector(b, value, ir.VectorType(I32, 8), 2) for value in (acc, codes, x)), strict=True
        )
        half = ir.VectorType(I8, 32)
        name = "llvm.x86.avx512.vpdpbusd.256"
        sums = [
            call_intrinsic(b, name, a.type, a, b.bitcast(u, half), b.bitcast(s, half)) for a, u, s in parts
        ]
        return _concatenated(b, sums)
    if machine.x86 and machine.has("avx2"):
        return b.add(acc, _dot_int8_avx2(b, codes, x))
    if machine.arm and machine.has("dotprod"):
        return _dot_int8_arm(b, acc, codes, x)
    for byte in range(4):
        left = b.and_(b.lshr(codes, constant(INTS, 8 * byte)), constant(INTS, 255))
        right = b.ashr(b.shl(x, constant(INTS, 24 - 8 * byte)), constant(INTS, 24))
        acc = b.add(acc, b.mul(left, right))
    return acc


def _split_vector(b: Any, value: Any, kind: Any, count: int) -> list[Any]:
    """A vector cut into `count` vectors of LLVM type `kind`."""
    each = LANES // count
    undefined = ir.Constant(INTS, ir.Undefined)
    cuts = [
        ir.Constant(ir.VectorType(I32, each), list(range(n * each, (n + 1) * each))) for n in range(count)
    ]
    return [b.bitcast(b.shuffle_vector(value, undefined, cut), kind) for cut in cuts]


def _concatenated(b: Any, parts: list[Any]) -> Any:
    """The parts as one vector again."""
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        order = ir.Constant(ir.VectorType(I32, width), list(range(width)))
        parts = [
            b.shuffle_vector(low, high, order) for low, high in zip(parts[::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _dot_int8_avx2(b: Any, codes: Any, x: Any) -> Any:
    """Even and odd bytes widened to 16 bits, then vpmaddwd twice: unlike vpmaddubsw it never saturates."""
    words = ir.VectorType(I16, LANES)
    eight, low = constant(words, 8), constant(words, 255)
    sums = []
    for u, s in zip(_split_vector(b, codes, words, 2), _split_vector(b, x, words, 2), strict=True):
        pairs = ((b.and_(u, low), b.ashr(b.shl(s, eight), eight)), (b.lshr(u, eight), b.ashr(s, eight)))
        even, odd = (
            call_intrinsic(b, "llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), left, right)
            for left, right in pairs
        )
        sums.append(b.add(even, odd))
    return _concatenated(b, sums)


def _dot_int8_arm(b: Any, acc: Any, codes: Any, x: Any) -> Any:
    """sdot takes signed bytes only: codes less 128 are, and 128 · Σ x, by sdot too, puts it right."""
    quad, four = ir.VectorType(I8, 16), ir.VectorType(I32, 4)
    out = []
    for a, u, s in zip(
        _split_vector(b, acc, four, 4),
        _split_vector(b, codes, quad, 4),
        _split_vector(b, x, quad, 4),
        strict=True,
    ):
        signed = b.xor(u, constant(quad, 0x80))
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        offset = call_intrinsic(b, name, four, constant(four, 0), constant(quad, 1), s)
        out.append(b.add(call_intrinsic(b, name, four, a, signed, s), b.shl(offset, constant(four, 7))))
    return _concatenated(b, out)
