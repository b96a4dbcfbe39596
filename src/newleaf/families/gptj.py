"""GPT-J: parallel blocks of one norm, interleaved rotary positions on part of each head (Wang 2021)."""

from __future__ import annotations

from typing import Any

from newleaf.families.config_map import Choice, ConfigMap, Field, Fixed, Ignored, LayerCount, Only
from newleaf.families.family import Family
from newleaf.families.gpt2 import ACTIVATIONS, ALIASES
from newleaf.families.weights import Rule, module, per_layer, same
from newleaf.model import GPTConfig

LAYOUT: dict[str, Any] = {
    "block": "parallel", "shared_norm": True, "positions": "rotary", "rotary_interleaved": True,
    "fp32_scores": True, "attention_bias": False, "attention_out_bias": False, "head_bias": True,
    "init": "normal",
}  # fmt: skip

SIZES = {
    "gptj-6b": GPTConfig(
        vocab_size=50_400, context_length=2048, n_layer=28, n_head=16, n_embd=4096, rotary_dim=64,
        tie_embeddings=False, **LAYOUT,
    )
}  # fmt: skip


CONFIG_MAP: ConfigMap = (
    Fixed(**LAYOUT),
    Ignored("n_ctx"),  # the older name of n_positions
    Only("rotary", True),
    Only("scale_attn_weights", True),
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    LayerCount("n_layer"),
    Field("n_head", "n_head"),
    Field("n_embd", "n_embd"),
    Field("n_inner", "n_inner", 0),
    Field("layer_norm_epsilon", "norm_eps", 1e-5),
    Field("rotary_dim", "rotary_dim", 64, empty=0),
    Choice("activation_function", "activation", ACTIVATIONS, "gelu_new"),
    Field("tie_word_embeddings", "tie_embeddings", False),
    Field("embd_pdrop", "embedding_dropout", 0.0),
    Field("attn_pdrop", "attention_dropout", 0.0),
    Field("resid_pdrop", "residual_dropout", 0.0),
    Field("initializer_range", "init_std", 0.02),
)


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "transformer.h.{i}.", "blocks.{i}."
    layers = [same(f"{layer}attn.{part}_proj.weight", f"{ours}attention.{part}.weight") for part in "qkv"]
    layers.append(same(f"{layer}attn.out_proj.weight", f"{ours}attention.out.weight"))
    layers += module(f"{layer}mlp.fc_in", f"{ours}feedforward.up")
    layers += module(f"{layer}mlp.fc_out", f"{ours}feedforward.down")
    layers += module(f"{layer}ln_1", f"{ours}attention_norm")
    outer = [same("transformer.wte.weight", "embedding.token.weight")]
    outer += module("transformer.ln_f", "final_norm")
    outer.append(same("lm_head.bias", "head.bias"))
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gptj", "gptj", "GPTJForCausalLM", CONFIG_MAP, rules, SIZES, aliases=ALIASES)
