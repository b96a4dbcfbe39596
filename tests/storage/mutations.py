"""Ways in which a stranger's file may be wrong: other types, other numbers, depth, and damaged bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NESTED: Any = 0
for _ in range(400):
    NESTED = [NESTED]

# What may stand where something else is expected.
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            2,
            2**31,
            2**31 - 1,
            2**63 - 1,
            2**63,
            10**40,
            1e308,
            float("inf"),
            float("nan"),
            -0.5,
            "",
            "x",
            "\x00",
            "\ud800",
            "a" * 5000,
            [],
            {},
            [[]],
            [None],
            {"": None},
            NESTED,
            {"content": 7},
            ["a", 1],
            "<|endoftext|>",
            "../../etc/passwd",
        ]
    ),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-3, 9), max_size=3),
)


def places(value: Any, found: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to every value inside a JSON value; of long lists the first and the last few."""
    inner = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    some = inner if len(inner) <= 60 else [*inner[:5], *inner[-5:]]
    return [found, *(place for name, each in some for place in places(each, (*found, name)))]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another one at this place; `...` leaves it out."""
    if not place:
        return new
    copy, name = (dict(value), place[0]) if isinstance(value, dict) else (list(value), place[0])
    if new is ... and len(place) == 1:
        del copy[name]
    else:
        copy[name] = changed(copy[name], place[1:], new)
    return copy


@st.composite
def wrong_json(draw: st.DrawFn, text: str) -> bytes:
    """The bytes of a JSON file with one to three values exchanged or taken out."""
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(value)
        value = (
            changed(value, draw(st.sampled_from(ways[1:] or ways)), draw(st.one_of(ODD, st.just(...))))
            if ways[1:]
            else draw(ODD)
        )
    return json.dumps(value).encode()


@st.composite
def wrong_bytes(draw: st.DrawFn, data: bytes, head: int) -> bytes:
    """A file cut short, grown, or with some of the bytes of its head exchanged, also for numbers that claim
    much."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, min(head, max(0, len(found) - 1))))
        kind = draw(st.sampled_from(["byte", "number", "cut", "grow"]))
        if kind == "byte" and found:
            found[at] = draw(st.integers(0, 255))
        elif kind == "number":
            number = draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]))
            found[at : at + 8] = number.to_bytes(8, "little")
        elif kind == "cut":
            del found[at:]
        else:
            found[at:at] = draw(st.binary(max_size=12))
    return bytes(found)


DEEP = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 500 + b"]" * 500,
    b"",
    b"\xff\xfe",
    b"1e999999",
    b"9" * 10_000,
    b"NaN",
    b"\xef\xbb\xbf{}",
    b"\x00" * 50,
]
