"""Which tokens may follow the beginning of a character: RFC 3629's own grammar is the reference."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.text.utf8_validity import Utf8Validity

# RFC 3629, section 4; a beginning matches where all characters but the last are whole, and that one could be
# completed.
TAIL = rb"[\x80-\xbf]"
CHARACTER = (
    rb"[\x00-\x7f]|[\xc2-\xdf]"
    + TAIL
    + rb"|\xe0[\xa0-\xbf]"
    + TAIL
    + rb"|[\xe1-\xec\xee\xef]"
    + TAIL
    + TAIL
    + rb"|\xed[\x80-\x9f]"
    + TAIL
    + rb"|\xf0[\x90-\xbf]"
    + TAIL
    + TAIL
    + rb"|[\xf1-\xf3]"
    + TAIL
    + TAIL
    + TAIL
    + rb"|\xf4[\x80-\x8f]"
    + TAIL
    + TAIL
)
BEGINNING = (
    rb"[\xc2-\xdf]|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef]" + TAIL + rb"?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf]"
    + TAIL
    + rb"?)?|[\xf1-\xf3]"
    + TAIL
    + rb"{0,2}|\xf4(?:[\x80-\x8f]"
    + TAIL
    + rb"?)?"
)
CAN_BE = re.compile(rb"(?:" + CHARACTER + rb")*(?:" + BEGINNING + rb")?", re.DOTALL)

BEGINNINGS = [b""] + [
    text.encode()[:end] for text in "éࠀ中퀀￿𐀀🤖\U0010ffff" for end in range(1, len(text.encode()))
]
EDGES = bytes.fromhex("00 41 7F 80 8F 90 9F A0 BF C0 C1 C2 DF E0 E1 ED EE EF F0 F1 F4 F5")
PIECES = st.one_of(
    st.binary(max_size=5),
    st.lists(st.sampled_from(EDGES), max_size=5).map(bytes),
    st.text(max_size=2).map(str.encode),
)


@settings(max_examples=500, deadline=None)
@given(begun=st.sampled_from(BEGINNINGS), pieces=st.lists(PIECES, min_size=1, max_size=8))
def test_a_token_fits_where_the_text_can_still_become_valid(begun: bytes, pieces: list[bytes]) -> None:
    utf8 = Utf8Validity(pieces)
    expected = [CAN_BE.fullmatch(begun + piece) is not None if piece else not begun for piece in pieces]
    assert [utf8.fits(begun, token) for token in range(len(pieces))] == expected
    assert utf8.fitting(begun, len(pieces)).tolist() == expected


def test_every_pair_of_bytes_fits_as_the_grammar_has_it() -> None:
    utf8 = Utf8Validity([bytes([byte]) for byte in range(256)])
    for begun in BEGINNINGS:
        expected = [CAN_BE.fullmatch(begun + bytes([byte])) is not None for byte in range(256)]
        assert np.array_equal(utf8.fitting(begun, 256), expected), begun


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from("aé中🤖"), max_size=6),
    cut=st.integers(0, 24),
    sizes=st.lists(st.integers(1, 3), max_size=30),
)
def test_what_is_begun_is_what_the_text_ends_with_however_it_is_cut_into_tokens(
    text: str, cut: int, sizes: list[int]
) -> None:
    data = text.encode()[:cut]
    whole = data.decode("utf-8", "ignore").encode()
    pieces, at = list[bytes](), 0
    for size in [*sizes, *[1] * len(data)]:
        if at < len(data):
            pieces.append(data[at : at + size])
            at += size
    utf8, begun = Utf8Validity(pieces), b""
    for token in range(len(pieces)):
        begun = utf8.after(begun, token)
    assert begun == utf8.begun(range(len(pieces))) == data[len(whole) :]


def test_a_special_token_stands_between_characters_only_and_ends_what_was_begun() -> None:
    utf8 = Utf8Validity([b"\xe4", b""])
    assert utf8.fitting(b"", 2).tolist() == [True, True]
    assert utf8.fitting(b"\xe4", 2).tolist() == [False, False]
    assert utf8.after(b"\xe4", 1) == b"" == utf8.begun([0, 1])
