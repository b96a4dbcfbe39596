"""A family's map of config.json is one list of entries, read and written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.families import FAMILIES, family_of
from newleaf.families.config_fields import Fields
from newleaf.families.config_map import REQUIRED, Choice, Field
from newleaf.families.family import Family
from newleaf.model import GPTConfig

NUMBERS = st.floats(0.001, 0.9)


def name_of(family: Family) -> str:
    return family.name


def smallest(family: Family) -> GPTConfig:
    """A network of the family with one layer."""
    experts = {"gated": True, "n_expert": 8} if family.name == "gpt_oss" else {}
    seed = GPTConfig(11, 7, 1, 1, 8, **experts)
    return family.from_hf(Fields(family.to_hf(seed), family.name))


@st.composite
def config_json(draw: st.DrawFn, family: Family) -> dict[str, Any]:
    """A small network's config.json in which every optional number, switch and name is drawn."""
    values = family.to_hf(smallest(family))
    for entry in family.config_map:
        if isinstance(entry, Choice):
            values[entry.theirs] = draw(st.sampled_from(list(entry.choices)))
        elif isinstance(entry, Field) and isinstance(entry.default, bool):
            values[entry.theirs] = draw(st.booleans())
        elif isinstance(entry, Field) and isinstance(entry.default, float):
            values[entry.theirs] = draw(NUMBERS)
    return values


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_config_json_is_read_and_written_unchanged(family: Family, data: st.DataObject) -> None:
    values = data.draw(config_json(family))
    written = family.to_hf(family.from_hf(Fields(dict(values), family.name)))
    for entry in family.config_map:
        if isinstance(entry, Choice):  # several of their names may mean one of ours
            written[entry.theirs] = entry.choices[written[entry.theirs]]
            values[entry.theirs] = entry.choices[values[entry.theirs]]
    assert written == values


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_each_entry_reads_what_it_has_written(family: Family, data: st.DataObject) -> None:
    """In one network of the family, with whatever values its config.json has."""
    config = family.from_hf(Fields(data.draw(config_json(family)), family.name))
    values, overridden = family.to_hf(config), set[str]()
    for entry in reversed(family.config_map):
        found = entry.read(Fields(dict(values), family.name))
        for name in found.keys() - overridden:
            assert getattr(config, name) == found[name] or found[name] == 0, name  # 0 is the usual value
        overridden |= found.keys()


@pytest.mark.parametrize("case", ["gpt1", "gpt2", "gpt_neo", "gptj", "gpt_neox", "gpt_oss", "qwen3", "llama"])
def test_an_absent_field_has_the_default_of_stock_transformers(
    case: str, cases: dict[str, tuple[type, dict[str, Any]]]
) -> None:
    kind, fields = cases[case]
    values = kind(vocab_size=300, **fields).to_dict()
    family = family_of(values)
    optional = [
        entry.theirs
        for entry in family.config_map
        if isinstance(entry, Choice) or (isinstance(entry, Field) and entry.default is not REQUIRED)
    ]
    assert len(optional) > 4
    for name in optional:
        if name not in fields:
            absent = {field: value for field, value in values.items() if field != name}
            assert family.read_config(absent) == family.read_config(values), name
