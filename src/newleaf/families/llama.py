"""Llama's layout, also SmolLM2's and TinyLlama's: RMS norm, rotary positions, SwiGLU, grouped queries.

Touvron et al. 2023, https://arxiv.org/abs/2307.09288.
"""

from __future__ import annotations

from typing import Any

from newleaf.families.config_fields import Fields
from newleaf.families.config_map import ConfigMap, Custom, Field, Fixed, LayerCount, Only
from newleaf.families.family import Family
from newleaf.families.rope import Rope
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

LAYOUT: dict[str, Any] = {
    "norm": "rms_norm", "positions": "rotary", "activation": "silu", "gated": True, "attention_bias": False,
    "attention_out_bias": False, "feedforward_bias": False, "init": "normal",
}  # fmt: skip


def llama(n_layer: int, n_head: int, n_kv_head: int, n_embd: int, n_inner: int, **other: Any) -> GPTConfig:
    """A network of this layout; `other` replaces any field."""
    shape = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": n_kv_head,
        "n_embd": n_embd,
        "n_inner": n_inner,
    }
    return GPTConfig(**(LAYOUT | shape | other))


SMOL = {"vocab_size": 49_152, "context_length": 8192, "rotary_base": 100_000.0}
SIZES = {
    "smollm2-135m": llama(30, 9, 3, 576, 1536, **SMOL, init_std=0.041666666666666664),
    "smollm2-360m": llama(32, 15, 5, 960, 2560, **SMOL),
    "smollm2-1.7b": llama(
        24, 32, 32, 2048, 8192, vocab_size=49_152, context_length=8192, rotary_base=130_000.0
    ),
    "tinyllama-1.1b": llama(
        22, 32, 4, 2048, 5632, vocab_size=32_000, context_length=2048, tie_embeddings=False
    ),
}


def _read_head_dim(fields: Fields) -> dict[str, Any]:
    """Without the field, the quotient is rounded down, as in stock transformers."""
    default = fields.require("hidden_size") // fields.require("num_attention_heads")
    return {"head_dim": fields.get("head_dim", default)}


CONFIG_MAP: ConfigMap = (
    Fixed(**LAYOUT),
    Only("rope_interleaved", False),
    Only("pretraining_tp", 1),
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    LayerCount("num_hidden_layers"),
    Field("num_attention_heads", "n_head"),
    Field("num_key_value_heads", "n_kv_head", 0),
    Field("hidden_size", "n_embd"),
    Custom(_read_head_dim, lambda config: {"head_dim": config.head_dim}),
    Field("intermediate_size", "n_inner"),
    Field("rms_norm_eps", "norm_eps", 1e-6),
    Rope(),
    Only("hidden_act", "silu", written=True),
    Field("attention_bias", "attention_bias", False, also="attention_out_bias"),
    Field("mlp_bias", "feedforward_bias", False),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("tie_word_embeddings", "tie_embeddings", False),
    Field("initializer_range", "init_std", 0.02),
)


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "model.layers.{i}.", "blocks.{i}."
    projections = [("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out")]
    layers = [
        same(f"{layer}self_attn.{theirs}.{part}", f"{ours}attention.{name}.{part}")
        for part in (("weight", "bias") if config.attention_bias else ("weight",))
        for theirs, name in projections
    ]
    layers += [
        same(f"{layer}mlp.{name}_proj.{part}", f"{ours}feedforward.{name}.{part}")
        for part in (("weight", "bias") if config.feedforward_bias else ("weight",))
        for name in ("gate", "up", "down")
    ]
    layers.append(same(f"{layer}input_layernorm.weight", f"{ours}attention_norm.weight"))
    layers.append(same(f"{layer}post_attention_layernorm.weight", f"{ours}feedforward_norm.weight"))
    return outer_rules(config) + per_layer(config, layers)


def outer_rules(config: GPTConfig) -> list[Rule]:
    """The weights outside the layers, which Qwen3 and gpt-oss name alike."""
    rules = [
        same("model.embed_tokens.weight", "embedding.token.weight"),
        same("model.norm.weight", "final_norm.weight"),
    ]
    if not config.tie_embeddings:
        rules.append(same("lm_head.weight", "head.weight"))
    return rules


FAMILY = Family("llama", "llama", "LlamaForCausalLM", CONFIG_MAP, rules, SIZES)
