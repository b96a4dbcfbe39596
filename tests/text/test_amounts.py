"""Bytes as people read them: no size is nothing, and none has a unit too small for it."""

from __future__ import annotations

import pytest

from newleaf.format_amounts import byte_size


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"), (1, "1 B"), (950, "950 B"), (999.7, "1.0 kB"), (38_240, "38.2 kB"), (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (270_000_000, "270 MB"), (1.25e9, "1.2 GB"), (7.5e15, "7,500 TB"),
    ],
)  # fmt: skip
def test_sizes_have_the_unit_that_people_can_read(count: float, said: str) -> None:
    assert byte_size(count) == said
