"""Contexts longer than the one made for, against stock transformers' rotary positions and logits."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import newleaf
from newleaf.families import size
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.model import GPT, ConfigError, GPTConfig, KVCache
from newleaf.model.rope_scaling import with_context
from newleaf.model.rotary import rotary_table
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

MADE_FOR, LONGER = 32, 80
SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "llama": (
        transformers.LlamaConfig,
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 80},
    ),
    "neox": (
        transformers.GPTNeoXConfig,
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 80,
         "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ),
    "qwen3": (
        transformers.Qwen3Config,
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
         "head_dim": 16,
         "intermediate_size": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
}  # fmt: skip


def stock(kind: str, method: str) -> Any:
    """A stock configuration of a longer context: yarn's has the longer one, dynamic's the trained one."""
    made, fields = SHAPES[kind]
    rope = dict(fields.get("rope_parameters", {"rope_theta": 10000.0})) | {
        "rope_type": {"yarn": "yarn", "ntk": "dynamic"}[method], "factor": LONGER / MADE_FOR,
    }  # fmt: skip
    rope |= {"original_max_position_embeddings": MADE_FOR} if method == "yarn" else {}
    length = LONGER if method == "yarn" else MADE_FOR
    return made(
        **fields
        | {
            "vocab_size": 260,
            "max_position_embeddings": length,
            "rope_parameters": rope,
            "initializer_range": 0.2,
        }
    )


def save(kind: str, folder: Path) -> Path:
    """A plain stock model on the disk, with a tokenizer of 257 bytes and more."""
    made, fields = SHAPES[kind]
    torch.manual_seed(2)
    config = made(
        **fields | {"vocab_size": 260, "max_position_embeddings": MADE_FOR, "initializer_range": 0.2}
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    train_tokenizer(["a"], TokenizerConfig(kind="byte")).save(folder)
    return folder


def stretched(kind: str, method: str, folder: Path) -> Any:
    """The same weights as stock transformers runs them when its configuration says so."""
    weights = transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict()
    other = transformers.AutoModelForCausalLM.from_config(stock(kind, method)).eval()
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize("method", ["yarn", "ntk"])
@pytest.mark.parametrize("kind", SHAPES)
def test_angles_are_those_of_stock_rope(kind: str, method: str, tmp_path: Path) -> None:
    config = newleaf.load(save(kind, tmp_path), context=LONGER, context_method=method).network.config
    name = {"yarn": "yarn", "ntk": "dynamic"}[method]
    rates, scale = ROPE_INIT_FUNCTIONS[name](stock(kind, method), torch.device("cpu"), seq_len=LONGER)
    angles = torch.arange(LONGER)[:, None] * rates
    cos, sin = rotary_table(torch.arange(LONGER), config)
    half = config.rotary_dim // 2
    assert torch.allclose(cos[:, :half], angles.cos() * scale, atol=1e-5)
    assert torch.allclose(sin[:, :half], angles.sin() * scale, atol=1e-5)
    plain = rotary_table(
        torch.arange(LONGER),
        config.replace(yarn_factor=0.0, rotary_base=500.0 if kind == "qwen3" else 10_000.0),
    )
    assert not torch.allclose(cos, plain[0], atol=1e-2)


@pytest.mark.parametrize("method", ["yarn", "ntk"])
@pytest.mark.parametrize("kind", SHAPES)
@torch.no_grad()
def test_logits_of_a_text_beyond_the_context_are_stock_transformers(
    kind: str, method: str, tmp_path: Path
) -> None:
    network = newleaf.load(save(kind, tmp_path), context=LONGER, context_method=method).network
    ids = torch.randint(256, (1, LONGER))
    wanted = stretched(kind, method, tmp_path)(ids).logits
    assert torch.allclose(network(ids), wanted, atol=1e-5 * float(wanted.abs().max()))
    pytest.importorskip("numba")
    runner = LoweredRunner(network, threads=1)
    assert torch.allclose(
        runner.read(0, ids[0].tolist()), wanted[0, -1], atol=1e-4 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("method", ["yarn", "ntk"])
@torch.no_grad()
def test_cached_keys_stay_right_as_the_text_grows_past_the_context(method: str, tmp_path: Path) -> None:
    """If dynamic NTK changed its rates with the length, keys rotated before would be wrong."""
    network = newleaf.load(save("llama", tmp_path), context=LONGER, context_method=method).network
    ids = torch.randint(256, (1, LONGER))
    cache, parts = KVCache(network.config, 1), []
    for start in (0, 20, 33, 64):
        parts.append(network(ids[:, start : {0: 20, 20: 33, 33: 64, 64: LONGER}[start]], cache=cache))
    assert torch.allclose(torch.cat(parts, 1), network(ids), atol=1e-5)


def test_a_stretched_model_is_saved_as_stock_transformers_stretches_it(tmp_path: Path) -> None:
    model = newleaf.load(save("llama", tmp_path / "a"), context=LONGER)
    assert model.save(tmp_path / "b") is None
    ids = torch.randint(256, (1, LONGER))
    with torch.no_grad():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()(ids).logits
        assert torch.allclose(newleaf.load(tmp_path / "b").network(ids), wanted, atol=1e-4)
    assert newleaf.load(tmp_path / "b").network.config == model.network.config


def test_one_line_says_from_where_to_where_and_by_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save("llama", tmp_path)
    with caplog.at_level(logging.WARNING, "newleaf"):
        newleaf.load(folder, context=LONGER)
        newleaf.load(folder, context=LONGER, context_method="ntk")
        # within: nothing to warn of
        assert newleaf.load(folder, context=20).network.config.context_length == 20
    first, second = (record.getMessage() for record in caplog.records)
    assert "from 32 to 80 tokens by YaRN; " in first
    assert "from 32 to 80 tokens by dynamic NTK" in second
    assert first.endswith("quality is not guaranteed")


def test_yarn_is_stretched_further_in_proportion_and_within_its_context_nothing_changes() -> None:
    made = size("gpt-oss-20b")
    assert with_context(made, 131_072) == made
    assert with_context(made, 4096) == made.replace(context_length=4096)
    further = with_context(made, 262_144)
    assert (further.yarn_factor, further.yarn_context, further.context_length) == (64.0, 4096, 262_144)
    with pytest.raises(ConfigError, match=r"context_method: .* stretched further by yarn only"):
        with_context(made, 262_144, "ntk")


@pytest.mark.parametrize(
    ("config", "length", "reason"),
    [
        (
            GPTConfig(64, 32, 1, 2, 32),
            64,
            "context: positions of this model are a learned table of 32 tokens; only rotary",
        ),
        (
            GPTConfig(64, 32, 1, 2, 32, positions="sinusoidal"),
            16,
            "context: positions of this model are sinusoids",
        ),
        (
            GPTConfig(64, 32, 1, 2, 32, positions="rotary"),
            32 * 64 + 1,
            "context: 2049 is more than 64 times the 32 tokens",
        ),
        (
            GPTConfig(64, 32, 1, 2, 32, positions="rotary"),
            1,
            "context: must be a whole number of tokens, at least 2, not 1",
        ),
    ],
)
def test_what_cannot_be_stretched_is_refused_with_the_reason(
    config: GPTConfig, length: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        with_context(config, length)


def test_a_stock_folder_with_another_attention_factor_is_refused(tmp_path: Path) -> None:
    folder = save("llama", tmp_path)
    values = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.5, "original_max_position_embeddings": 32}
    for more, refused in (({"attention_factor": 2.0}, True), ({"mscale": 1.0}, True), ({}, False)):
        (folder / "config.json").write_text(
            json.dumps(values | {"rope_parameters": rope | more, "max_position_embeddings": 80})
        )
        if refused:
            with pytest.raises(newleaf.InputError, match=f"{next(iter(more))} in rope_parameters"):
                newleaf.load(folder)
        else:
            assert newleaf.load(folder).network.config.yarn_factor == 2.5


def test_the_command_line_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from newleaf.api import Model
    from newleaf.cli.main import main

    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    Model(GPT(GPTConfig(tokenizer.vocab_size, 32, 1, 2, 32)), tokenizer, "gpt2").save(tmp_path / "learned")
    folder = save("llama", tmp_path / "rotary")
    capsys.readouterr()
    for words, said in (
        (
            [str(tmp_path / "learned"), "--context", "64"],
            "context: positions of this model are a learned table of 32 tokens",
        ),
        ([str(folder), "--context", "100000"], "context: 100000 is more than 64 times"),
        ([str(folder), "--context", "0"], "context: must be a whole number of tokens, at least 2, not 0"),
        (
            [str(folder), "--context-method", "ntk"],
            "context_method: says how a context is stretched; give context too",
        ),
        ([str(folder), "--cache", "int3"], "--cache"),
    ):
        assert main(["generate", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert (
        main(
            [
                "generate",
                str(folder),
                "a" * 40,
                "--context",
                "80",
                "--cache",
                "int8",
                "--max-tokens",
                "5",
                "--temperature",
                "0",
            ]
        )
        == 0
    )
    assert main(["evaluate", "http://localhost:1/v1", str(__file__), "--context", "80"]) == 2


def test_the_server_takes_a_number_format_a_size_or_both() -> None:
    from newleaf.cli.serve_models import parse_cache

    assert [parse_cache(text) for text in (None, "2G", "int8", "int8,2G")] == [
        (None, None),
        (None, 2 * 10**9),
        ("int8", None),
        ("int8", 2 * 10**9),
    ]
    for wrong in ("int4", "int8,lots"):
        with pytest.raises(newleaf.InputError, match="--cache"):
            parse_cache(wrong)
