"""Import and export are one map, run forwards and backwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.families import FAMILIES
from newleaf.families.config_fields import Fields
from newleaf.families.weights import from_hugging_face, to_hugging_face
from newleaf.model import GPT, GPTConfig


def shapes_of(family: Any) -> st.SearchStrategy[GPTConfig]:
    seed = (
        GPTConfig(11, 7, 1, 1, 8, gated=True, n_expert=8)
        if family.name == "gpt_oss"
        else GPTConfig(11, 7, 1, 1, 8)
    )
    base = family.from_hf(Fields(family.to_hf(seed), family.name))
    grouped, scaled = family.name in ("qwen3", "llama", "gpt_oss"), base.attention_scale != 1

    def build(layers: int, kv: int, group: int, dim: int, tied: bool, inner: int) -> GPTConfig:
        heads = kv * (group if grouped else 1)
        width = 2 * dim * heads
        return base.replace(
            n_layer=layers, n_head=heads, n_kv_head=kv, head_dim=2 * dim, n_embd=width, rotary_dim=0,
            n_inner=4 * width if family.name == "gpt1" else inner, attention_scale=0.0 if scaled else 1.0,
            tie_embeddings=tied, **({"n_expert": 2, "n_expert_active": 1} if base.n_expert else {}),
        )  # fmt: skip

    return st.builds(
        build,
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 3),
        st.integers(1, 4),
        st.booleans(),
        st.integers(1, 40),
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_weights_go_out_and_come_back_unchanged(family: Any, data: st.DataObject) -> None:
    config = data.draw(shapes_of(family))
    ours = GPT(config).state_dict()
    theirs = to_hugging_face(family.rules(config), ours)
    back = dict(from_hugging_face(family.rules(config), theirs, {name: t.shape for name, t in ours.items()}))
    if config.tie_embeddings:
        back["head.weight"] = back["embedding.token.weight"]
    assert back.keys() == ours.keys()
    rounds = {name for rule in family.rules(config) if rule.rounds for name in rule.ours}
    assert all(torch.equal(back[name], ours[name]) for name in ours.keys() - rounds)
    for name in rounds:  # 1/√D folded in and out again, in fp32
        torch.testing.assert_close(back[name], ours[name], rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_configurations_go_out_and_come_back_unchanged(family: Any, data: st.DataObject) -> None:
    config = data.draw(shapes_of(family)).replace(residual_dropout=0.25, init="fan_in")
    assert family.read_config(family.write_config(config)) == config
    assert not family.cannot_hold(config)
