"""Stop strings, beside a plain search of the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from newleaf.generate.text.stop_strings import StopFinder

FEW = st.text("ab", min_size=1, max_size=6)


def expected(stops: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    """What comes out: the text up to a stop string, looked for whenever a piece has come."""
    text = ""
    for piece in pieces:
        text += piece
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            return text[: min(places)], True
    return text, False


@given(st.lists(FEW, max_size=4), st.lists(st.text("abc", max_size=8), max_size=8))
def test_text_comes_out_up_to_the_first_stop_string(stops: list[str], pieces: list[str]) -> None:
    finder = StopFinder(tuple(stops))
    out = "".join([*map(finder.push, pieces), finder.finish()])
    assert (out, finder.found) == expected(tuple(stops), pieces)


@given(st.lists(FEW, min_size=1, max_size=3), st.text("abc", max_size=20))
def test_only_what_could_become_a_stop_string_is_held_back(stops: list[str], text: str) -> None:
    finder = StopFinder(tuple(stops))
    out = finder.push(text)
    if not finder.found:
        held = text[len(out) :]
        ends = [
            text[-size:]
            for size in range(1, len(text) + 1)
            if any(stop.startswith(text[-size:]) for stop in stops)
        ]
        assert held == max(ends, key=len, default="")


def test_long_stop_strings_that_repeat_themselves_take_one_look_at_each_character() -> None:
    stops = tuple("a" * 50_000 + ending for ending in "bcde")
    finder, out = StopFinder(stops), ""
    for _ in range(40_000):  # pieces, each of which could go on with all of them
        out += finder.push("a")
    out += finder.finish("z")
    assert out == "a" * 40_000 + "z"
