"""GPT-3's layout: the paper's shapes and counts, and the logits of stock GPT-Neo."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import newleaf
from newleaf import families
from newleaf.families import family_for, family_of, gpt3
from newleaf.model import GPT, GPTConfig
from newleaf.model.count import count_parameters
from newleaf.storage.model_folder import load_folder, save_folder
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

# Layers, width, heads and head dimension of table 2.1, and millions of parameters in table D.1, of Brown et
# al. 2020.
PAPER = {
    "gpt3-125m": (12, 768, 12, 64, 125),
    "gpt3-350m": (24, 1024, 16, 64, 356),
    "gpt3-760m": (24, 1536, 16, 96, 760),
    "gpt3-1.3b": (24, 2048, 24, 128, 1320),
    "gpt3-2.7b": (32, 2560, 32, 80, 2650),
    "gpt3-6.7b": (32, 4096, 32, 128, 6660),
    "gpt3-13b": (40, 5140, 40, 128, 12850),
    "gpt3-175b": (96, 12288, 96, 128, 174600),
}


def small(n_embd: int, n_head: int) -> GPTConfig:
    return gpt3.gpt3(4, n_embd, n_head, vocab_size=300, context_length=64, windows=(0, 5, 0, 5))


def saved(folder: Path, config: GPTConfig, dtype: torch.dtype = torch.float32) -> GPT:
    """A network with every weight random, and its folder."""
    network = GPT(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    network = network.to(dtype).eval()
    assert (
        save_folder(folder, config, network.state_dict(), train_tokenizer(["a"], TokenizerConfig(), 257))
        is None
    )
    return network


@pytest.mark.parametrize("name", PAPER)
def test_the_eight_sizes_have_the_papers_shapes_and_the_counts_that_follow(name: str) -> None:
    layers, width, heads, dim, millions = PAPER[name]
    assert gpt3.TABLE[name] == (layers, width, heads, dim)
    config = gpt3.SIZES[name] if name in gpt3.SIZES else gpt3.ON_PAPER[name].counts_as
    assert (config.n_layer, config.n_embd, config.vocab_size, config.context_length) == (
        layers,
        width,
        50_257,
        2048,
    )
    # 12·C² weights and 10·C biases and norms a layer, two tables, the final norm.
    total = layers * (12 * width**2 + 10 * width) + (50_257 + 2048) * width + 2 * width
    assert count_parameters(config).total == total
    if name != "gpt3-13b":
        assert total / 1e6 == pytest.approx(millions, rel=0.004)
    else:  # the count in table D.1 is that of a width of 5,120, not of table 2.1's 5,140
        assert total / 1e6 == pytest.approx(12_952, abs=1)
        assert count_parameters(gpt3.gpt3(40, 5120, 40)).total / 1e6 == pytest.approx(millions, abs=5)


def test_dense_and_banded_layers_alternate() -> None:
    for config in gpt3.SIZES.values():
        assert config.windows == (0, 256) * (config.n_layer // 2)
        assert config.attention_scale == config.head_dim**-0.5


def test_sizes_whose_heads_do_not_divide_the_width_are_refused_with_a_sentence() -> None:
    for name, heads, width in (("gpt3-1.3b", 24, "2,048"), ("GPT3-13B", 40, "5,140")):
        with pytest.raises(
            newleaf.InputError,
            match=rf"on paper only: its {heads} heads of 128 do not divide its width of {width}",
        ):
            families.size(name)
    assert families.size("gpt3_175b") is gpt3.SIZES["gpt3-175b"]
    with pytest.raises(newleaf.InputError, match=r"gpt2: no such size; did you mean gpt2-124m\?"):
        families.size("gpt2")
    with pytest.raises(newleaf.InputError, match=r"gpt3-125n: no such size; did you mean gpt3-125m\?"):
        families.size("gpt3-125n")


@pytest.mark.parametrize(("n_embd", "n_head"), [(48, 3), (36, 3), (20, 1)])
def test_stock_gpt_neo_gives_the_same_logits(n_embd: int, n_head: int, tmp_path: Path) -> None:
    network = saved(tmp_path / "m", small(n_embd, n_head))
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    assert values["architectures"] == ["GPTNeoForCausalLM"]
    assert values["newleaf"] == {"family": "gpt3"}
    stock, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.randint(0, 257, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, network(ids), atol=1e-4, rtol=1e-4)
    again = load_folder(tmp_path / "m")
    assert again.family == "gpt3"
    assert again.network.config == network.config


def test_a_head_of_64_is_folded_without_losing_a_bit_of_bf16(tmp_path: Path) -> None:
    network = saved(tmp_path / "m", small(128, 2), torch.bfloat16)
    query = "transformer.h.0.attn.attention.q_proj.weight"
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert torch.equal(stored[query], network.blocks[0].get_parameter("attention.q.weight") / 8)
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    again = load_folder(tmp_path / "m").network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_a_scale_that_rounds_is_written_in_fp32_and_comes_back(tmp_path: Path) -> None:
    network = saved(tmp_path / "m", small(24, 2), torch.bfloat16)
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "float32"
    again = load_folder(tmp_path / "m", torch.bfloat16).network.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in network.state_dict().items())


def test_only_the_name_in_config_json_tells_gpt3_from_gpt_neo() -> None:
    values = {"architectures": ["GPTNeoForCausalLM"], "model_type": "gpt_neo"}
    assert family_of(values).name == "gpt_neo"
    assert family_of(values | {"newleaf": {"family": "gpt3"}}).name == "gpt3"
    assert family_of(values | {"newleaf": {"family": "another"}}).name == "gpt_neo"
    assert family_of({"model_type": "gpt_neo", "newleaf": {"family": "gpt3"}}).name == "gpt3"
    for config, name in ((small(48, 3), "gpt3"), (small(48, 3).replace(attention_scale=1.0), "gpt_neo")):
        held = family_for(config)
        assert held is not None
        assert held.name == name
