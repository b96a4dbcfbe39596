"""Plain data is serialized and decoded unchanged, and every other type is refused."""

from __future__ import annotations

import collections
import enum
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.verify.sandbox.child.plain_data import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_VALUES,
    UnsupportedValueError,
    decode,
    encode,
)

KEYS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False)
    | st.tuples(st.integers(), st.text())
)
LEAVES = (
    KEYS
    | st.floats()
    | st.integers(-(1 << 300), 1 << 300)
    | st.complex_numbers(allow_nan=False)
    | st.characters(categories=["Cs"])
)
VALUES_OF_ANY_KIND = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=20,
)


def identical(one: Any, other: Any) -> bool:
    """Equal, of equal types all the way down, with each bit of a float."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return identical(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return one == other and {(type(each), each) for each in one} == {(type(each), each) for each in other}
    return bool(one == other)


@settings(max_examples=200, deadline=None)
@given(VALUES_OF_ANY_KIND)
def test_plain_data_comes_back_the_same(value: object) -> None:
    assert identical(decode(encode(value)), value)


OTHER_VALUES = [
    bytearray(b"ab"),
    range(3, 10, 2),
    range(1 << 70),
    -0.0,
    math.inf,
    1 << 3000,
    "\ud800",
    1 << 62,
    -(1 << 62),
]


@pytest.mark.parametrize("value", OTHER_VALUES)
def test_other_plain_values_come_back_the_same(value: object) -> None:
    assert identical(decode(encode(value)), value)


def test_iterators_are_read_and_views_stay_views() -> None:
    for made in ((n * n for n in range(3)), map(str, [1, 2]), zip([1], [2]), iter([1])):
        found = decode(encode(made))
        assert iter(found) is found
        assert not isinstance(found, list)
    assert list(decode(encode(n for n in range(3)))) == [0, 1, 2]
    whole = {1: "a", 2: "b"}
    assert decode(encode(whole.keys())) == whole.keys()
    assert decode(encode(whole.items())) == whole.items()
    assert list(decode(encode(whole.values()))) == ["a", "b"]


class Overriding(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __add__(self, other: object) -> int:
        return 99

    __int__ = __index__ = lambda self: 99  # type: ignore[assignment]


class OverridingText(str):
    def __str__(self) -> str:
        return "other"

    __repr__ = encode = __str__  # type: ignore[assignment]


class OverridingList(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(["other"])


class Colour(enum.IntEnum):
    RED = 3


def test_a_subclass_arrives_as_its_base_with_the_bases_own_value() -> None:
    point = collections.namedtuple("point", "x y")
    pairs = [
        (Overriding(5), 5), (OverridingText("text"), "text"), (OverridingList([1, 2]), [1, 2]),
        (Colour.RED, 3), (point(1, 2), (1, 2)), (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}), (collections.defaultdict(list, a=[1]), {"a": [1]}),
    ]  # fmt: skip
    for value, base in pairs:
        assert identical(decode(encode(value)), base)


@pytest.mark.parametrize(
    "value",
    [object(), len, Overriding, lambda: 0, ..., NotImplemented, collections, memoryview(b""), slice(1)],
)
def test_anything_else_is_refused_by_its_types_name(value: object) -> None:
    with pytest.raises(
        UnsupportedValueError, match=f"of type {type(value).__name__}, which is not plain data"
    ):
        encode([value])


def test_size_number_and_depth_are_bounded_both_ways() -> None:
    deep: list[Any] = []
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    for value in (deep, circle, "x" * MAX_BYTES, [0] * (MAX_VALUES + 1), iter(int, 1)):
        with pytest.raises(UnsupportedValueError):
            encode(value)
    for text in (b'["list",' * 200 + b"1" + b"]" * 200, b"[" * 100_000, b'["list"' + b',["list"' * 5000):
        with pytest.raises(UnsupportedValueError):
            decode(text)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(alphabet='[]{}",:0123456789.eE-+truefalsnlitdcxbyomprgkv', max_size=60).map(str.encode)
)
def test_any_bytes_are_plain_data_or_refused(text: bytes) -> None:
    try:
        found = decode(text)
    except UnsupportedValueError:
        return
    assert encode(found) is not None
