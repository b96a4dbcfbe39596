"""Lowered networks against the network they come from: every way in which members of the line differ, every number format, every batch."""

from __future__ import annotations

import pytest
import torch

from newleaf.generate.runner import LoweredRunner
from newleaf.model import GPT, GPTConfig
from newleaf.quant.layers import packable, put_packed
from newleaf.quant.packed import FORMATS, Format
from newleaf.quant.quantize import quantize

pytest.importorskip("numba")


def config(**fields: object) -> GPTConfig:
    defaults = {"vocab_size": 301, "context_length": 64, "n_layer": 2, "n_head": 4, "n_embd": 48, "init_std": 0.2}
    return GPTConfig.from_dict(defaults | fields)


QWEN3 = {
    "n_kv_head": 2, "head_dim": 16, "n_inner": 80, "norm": "rms_norm", "qk_norm": True, "positions": "rotary", "activation": "silu", "gated": True,
    "attention_bias": False, "attention_out_bias": False, "feedforward_bias": False,
}  # fmt: skip
CASES = {
    "gpt1": config(block="post_norm", final_norm=False),
    "gpt1 with sinusoids and exact gelu": config(block="post_norm", final_norm=False, positions="sinusoidal", activation="gelu"),
    "gpt2": config(),
    "gpt2 of an odd width": config(n_embd=40, n_head=5, n_inner=70, activation="relu", tie_embeddings=False),
    "gpt_neo with windows": config(n_embd=30, n_head=3, windows=(0, 7), attention_bias=False, attention_scale=1.0),
    "gptj": config(
        block="parallel", shared_norm=True, positions="rotary", rotary_dim=4, rotary_interleaved=True, tie_embeddings=False, head_bias=True,
        attention_bias=False, attention_out_bias=False,
    ),
    "gpt_neox": config(block="parallel", positions="rotary", rotary_dim=6, activation="gelu", tie_embeddings=False),
    "llama": config(**QWEN3 | {"qk_norm": False, "head_dim": 10, "n_kv_head": 1}),
    "qwen3": config(**QWEN3),
    "gpt_oss": config(
        **QWEN3 | {"qk_norm": False, "head_dim": 12, "activation": "clamped_swiglu", "feedforward_bias": True, "attention_bias": True},
        n_expert=6, n_expert_active=2, sinks=True, windows=(9, 0), yarn_factor=4.0, yarn_context=16, tie_embeddings=False,
    ),
}  # fmt: skip


def network(shape: GPTConfig) -> GPT:
    """Every weight random, biases, norms and sinks too."""
    torch.manual_seed(3)
    made = GPT(shape).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return made


def packed(made: GPT, format: Format) -> GPT:
    plain = dict(made.state_dict())
    for name in packable(made):
        bias = getattr(made.get_submodule(name.rpartition(".")[0]), "bias", None)
        put_packed(made, name, quantize(plain[name], format), bias)
    return made


def read(runner: LoweredRunner, ids: torch.Tensor, slot: int = 0) -> torch.Tensor:
    """Logits [T, V] of a text that is read one token at a time."""
    return torch.stack([runner.step([token], [position], [slot])[0].clone() for position, token in enumerate(ids.tolist())])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_lowered_network_gives_the_networks_own_logits(case: str) -> None:
    made = network(CASES[case])
    ids = torch.randint(301, (40,))
    wanted = made(ids[None])[0]
    found = read(LoweredRunner(made, threads=2), ids)
    assert float((found - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
