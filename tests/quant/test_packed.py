"""Weights in 8 and 4 bits: what packing keeps, what it costs, and that a packed network computes what its
unpacked weights say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.api import Model, load
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.quant.packed import FORMATS, Format, Packed, pack_codes, pack_scales
from newleaf.quant.packed_layers import PackedLinear, PlainWeights
from newleaf.quant.quantize import quantize
from newleaf.storage.build_network import empty_network, load_weights
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

KINDS = sorted(FORMATS)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(8, 64), (8, 32), (4, 32)]),
    st.integers(1, 70),
    st.integers(1, 150),
    st.integers(0, 3),
    st.randoms(),
)
def test_codes_come_back_from_the_kernels_order(
    kind: tuple[int, int], rows: int, columns: int, stack: int, random: object
) -> None:
    format = Format(*kind)
    lead = (stack,) if stack else ()
    tiles, groups = -(-rows // 16), -(-columns // format.group)
    codes = torch.randint(0, 2 * format.zero, (*lead, tiles * 16, groups * format.group), dtype=torch.uint8)
    scales = torch.randint(1, 9, (*lead, tiles * 16, groups)).half()
    packed = Packed(pack_codes(codes, format.bits), pack_scales(scales), (*lead, rows, columns), format)
    wanted = (codes.float() - format.zero) * scales.float().repeat_interleave(format.group, -1)
    wanted = wanted[..., :rows, :columns]
    assert torch.equal(packed.unpack(), wanted)
    matrix = packed.matrix(stack - 1) if stack else packed
    plain = wanted[stack - 1] if stack else wanted
    assert torch.equal(torch.cat([part.unpack() for _, part in matrix.chunks()]), plain)
    some = torch.tensor([[0, rows - 1], [rows // 2, 0]])
    assert torch.equal(matrix.take(some), plain[some])


def test_the_byte_order_is_the_one_that_is_drawn() -> None:
    codes = torch.arange(16).unsqueeze(1).repeat(1, 32).to(torch.uint8)
    codes[3] = torch.arange(32) % 16
    packed = pack_codes(codes, 4)
    assert packed.shape == (1, 4, 16, 4)
    assert packed[0, 1, 3].tolist() == [(8 + j) % 16 | ((12 + j) % 16) << 4 for j in range(4)]
    assert pack_codes(codes, 8)[0, 5, 3].tolist() == [20 % 16, 21 % 16, 22 % 16, 23 % 16]


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6])
def test_eight_bits_lose_at_most_half_a_step(size: float) -> None:
    weight = torch.randn(33, 130, dtype=torch.float64).mul(size).float()
    steps = F.pad(weight, (0, 62)).view(33, 3, 64).abs().amax(-1) / 127.5
    error = (quantize(weight, FORMATS["int8"]).unpack() - weight).abs()
    assert (error <= steps.repeat_interleave(64, 1)[:, :130] * 0.51).all()


def test_four_bits_lose_less_than_rounding_to_the_nearest_of_scales_by_the_largest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(256, 512)
    groups = weight.view(256, -1, 32)
    scale = groups.abs().amax(-1, keepdim=True) / 7
    nearest = ((groups / scale).round().clamp(-8, 7) * scale).view_as(weight)
    error, plain = (quantize(weight, FORMATS["int4"]).unpack() - weight).norm(), (nearest - weight).norm()
    assert error < 0.87 * plain


def test_one_large_weight_does_not_erase_a_matrix_of_small_ones() -> None:
    weight = torch.full((16, 64), 1e-4)
    weight[0, 0] = 100.0
    for kind in KINDS:
        assert torch.allclose(quantize(weight, FORMATS[kind]).unpack()[1:], weight[1:], rtol=0.01)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        quantize(torch.tensor([[1.0, math.inf]]), FORMATS["int8"])


def _network(**changes: object) -> GPT:
    torch.manual_seed(1)
    config = GPTConfig(
        vocab_size=61, context_length=32, n_layer=2, n_head=4, n_embd=48, init="normal", init_std=0.3
    ).replace(**changes)
    return GPT(config).eval()


NETWORKS = {
    "tied": {},
    "untied": {"tie_embeddings": False, "head_bias": True, "positions": "rotary"},
    "experts": {
        "n_expert": 4,
        "n_expert_active": 2,
        "gated": True,
        "activation": "clamped_swiglu",
        "n_inner": 40,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_packed_network_computes_what_its_unpacked_weights_say(name: str, kind: str) -> None:
    network = _network(**NETWORKS[name])
    packed = load_weights(empty_network(network.config), network.state_dict().items(), FORMATS[kind])
    weights = PlainWeights(packed)
    assert set(weights) == set(network.state_dict())
    plain = GPT(network.config).eval()
    plain.load_state_dict(dict(weights))
    ids = torch.randint(0, 61, (2, 20))
    assert torch.allclose(packed(ids), plain(ids), atol=1e-4)
    assert torch.allclose(packed.loss(ids, ids), plain.loss(ids, ids), atol=1e-5)
    cache = KVCache(network.config, 2)
    step = torch.cat([packed(ids[:, :12], cache=cache), packed(ids[:, 12:], cache=cache)], 1)
    assert torch.allclose(step, plain(ids), atol=1e-4)
    assert packed.parameter_count() == plain.parameter_count()
    assert not torch.equal(plain.head.weight, network.head.weight)  # it was packed at all


def test_gradients_flow_through_packed_layers() -> None:
    torch.manual_seed(0)
    packed = quantize(torch.randn(40, 96), FORMATS["int4"])
    layer = PackedLinear(packed, torch.nn.Parameter(torch.randn(40)))
    x = torch.randn(3, 5, 96, requires_grad=True)
    y = torch.randn(3, 5, 96, requires_grad=True)
    with torch.no_grad():
        y.copy_(x)
    layer(x).square().sum().backward()
    F.linear(y, packed.unpack(), layer.bias).square().sum().backward()
    assert torch.allclose(x.grad, y.grad, atol=1e-3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["the leaf and the tree and the wind"] * 20, TokenizerConfig(), 280)
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=64,
        n_layer=2,
        n_head=4,
        n_embd=64,
        positions="rotary",
        tie_embeddings=False,
    )
    path = tmp_path_factory.mktemp("models") / "model"
    Model(GPT(config), tokenizer, "gpt_neox").save(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_opens_packed_and_saves_plain(kind: str, folder: Path, tmp_path: Path) -> None:
    model = load(folder, weights=kind)
    bits = (
        sum(
            part.nbytes
            for name, part in model.network.named_buffers()
            if name.endswith((".codes", ".scales"))
        )
        * 8
    )
    weights = sum(w.numel() for name, w in PlainWeights(model.network).items() if w.ndim == 2)
    assert bits / weights < {"int8": 8.6, "int4": 4.8}[kind]  # the vocabulary is filled up to whole tiles
    text = model.generate("the leaf", max_tokens=8, temperature=0)
    model.save(tmp_path / "plain")
    assert load(tmp_path / "plain").generate("the leaf", max_tokens=8, temperature=0) == text


def test_a_network_that_changes_its_type_keeps_the_bits_of_packed_weights_and_answers_in_the_new_type() -> (
    None
):
    weight = torch.randn(48, 64)
    layer = PackedLinear(quantize(weight, FORMATS["int4"]), torch.nn.Parameter(torch.randn(48)))
    before = layer.weight
    assert layer.to(torch.bfloat16).scales.dtype == torch.float16
    assert torch.equal(layer.weight, before.bfloat16())
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
