"""A config.json with any value opens, or is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import newleaf

ROPE_FIELDS = st.sampled_from(["rope_type", "factor", "rope_theta"])
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**12),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(ROPE_FIELDS, st.one_of(st.integers(), st.text(max_size=3)), max_size=2),
)


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gpt_neo", "gpt_neox", "gpt_oss"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_field_opens_or_is_refused_in_one_line(
    case: str, make: Callable[[str, Path], Any], tmp_path: Path, data: st.DataObject
) -> None:
    folder = tmp_path / "m"
    if not folder.exists():
        make(case, folder)
        (folder / "whole.json").write_bytes((folder / "config.json").read_bytes())
    values: dict[str, Any] = json.loads((folder / "whole.json").read_text())
    field = data.draw(st.sampled_from(sorted(values)))
    (folder / "config.json").write_text(json.dumps(values | {field: data.draw(ANYTHING)}))
    message = ""
    try:
        newleaf.load(folder)
    except newleaf.InputError as error:
        message = str(error)
    assert "\n" not in message


def test_sizes_too_large_to_count_are_refused_in_one_line(
    make: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    _, folder = make("gpt_neox", tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"hidden_size": 2_365_189_257}))
    with pytest.raises(newleaf.InputError, match=r"its sizes make .* weights, more than can be"):
        newleaf.load(folder)
