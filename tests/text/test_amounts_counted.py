"""Numbers with what is counted."""

from __future__ import annotations

from newleaf.format_amounts import counted


def test_one_is_counted_in_the_singular_and_others_in_the_plural() -> None:
    assert [counted(number, "step") for number in (0, 1, 2, 1200)] == [
        "0 steps",
        "1 step",
        "2 steps",
        "1,200 steps",
    ]
    assert counted(0.9, "time") == "1 time"
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]
