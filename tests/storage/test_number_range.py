"""Weights beyond a number format's range are refused by name wherever one is written; what is within comes
back finite."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_shapes import GPT_OSS, TINY

import newleaf
from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.storage.convert_model import convert
from newleaf.storage.number_range import check_range
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 270)
    config = transformers.LlamaConfig(
        vocab_size=270,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=269,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    return tmp_path / "m"


def put(folder: Path, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[NAME][3, 5] = value
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("target", "options", "value", "name"),
    [
        ("x.gguf", {"type": "F16"}, 1e5, "blk.1.ffn_up.weight"),
        ("x.gguf", {"type": "Q8_0"}, 1e7, "blk.1.ffn_up.weight"),
        ("x.gguf", {"type": "Q4_0"}, -1e6, "blk.1.ffn_up.weight"),
        ("x.gguf", {"type": "BF16"}, 3.4e38, "blk.1.ffn_up.weight"),
        ("x", {"dtype": "fp16"}, 1e5, NAME),
        ("x", {"dtype": "bf16"}, 3.4e38, NAME),
    ],
)
def test_a_weight_beyond_the_range_is_refused_by_its_tensors_name(
    target: str,
    options: dict[str, Any],
    value: float,
    name: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(folder, value)
    with pytest.raises(InputError, match=rf"{name} has a value of .* beyond .* range"):
        convert(folder, tmp_path / target, **options)
    assert not (tmp_path / target).exists()
    flags = [part for option, chosen in options.items() for part in (f"--{option}", chosen)]
    assert main(["convert", str(folder), str(tmp_path / target), *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    if target.endswith(".gguf"):
        with pytest.raises(InputError, match=name):
            newleaf.load(folder).save(tmp_path / target, **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("x", {}),
        ("x", {"dtype": "bf16"}),
        ("x.gguf", {}),
        *(("x.gguf", {"type": kind}) for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0")),
    ],
)
def test_what_is_no_number_in_a_source_is_named(
    value: float, target: str, options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    put(folder, value)
    with pytest.raises(InputError, match=r"(up_proj|ffn_up)\.weight holds (NaN|infinity)"):
        convert(folder, tmp_path / target, **options)
    with pytest.raises(InputError, match=r"blocks\.1\.feedforward\.up\.weight: weights that are not finite"):
        newleaf.load(folder, weights="int8")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "BF16"])
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    value=st.floats(1000, float(np.finfo(np.float32).max), width=32) | st.floats(65000, 66000, width=32),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_what_is_refused_is_what_the_gguf_package_makes_infinite(
    kind: str, value: float, sign: float
) -> None:
    weights = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    weights[1, 7] = sign * value
    number = gguf.GGMLQuantizationType[kind]
    with np.errstate(all="ignore"):
        back = gguf.quants.dequantize(gguf.quants.quantize(weights, number), number)
    fits = bool(np.isfinite(back).all())
    try:
        check_range("w", torch.from_numpy(weights), kind)
    except InputError:
        assert not fits
    else:
        assert fits


def test_weights_too_small_for_mxfp4s_exponent_become_zero(tmp_path: Path) -> None:
    from newleaf.api import Model
    from newleaf.model import GPT, GPTConfig

    config = GPTConfig(n_layer=2, **TINY, **GPT_OSS)
    network = GPT(config)
    with torch.no_grad():
        network.blocks[0].feedforward.up[1, 3] = 1e-40
    Model(
        network,
        train_tokenizer([Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 270),
        "gpt_oss",
    ).save(tmp_path / "x.gguf", type="MXFP4")
    back = newleaf.load(tmp_path / "x.gguf", weights="fp32").network
    assert back.blocks[0].feedforward.up[1, 3].abs().max() == 0
