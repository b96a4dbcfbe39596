"""Qwen3's dense layout: what newleaf's own pretraining makes (https://arxiv.org/abs/2505.09388)."""

from __future__ import annotations

from typing import Any

from newleaf.families.config_fields import Fields
from newleaf.families.config_map import ConfigMap, Custom, Field, Fixed, LayerCount, Only
from newleaf.families.family import Family
from newleaf.families.llama import outer_rules
from newleaf.families.rope import Rope
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

WINDOWED, FULL = "sliding_attention", "full_attention"  # layer_types

LAYOUT: dict[str, Any] = {
    "norm": "rms_norm", "qk_norm": True, "positions": "rotary", "activation": "silu", "gated": True,
    "attention_bias": False, "attention_out_bias": False, "feedforward_bias": False, "init": "normal",
}  # fmt: skip


def qwen3(n_layer: int, n_head: int, n_embd: int, n_inner: int, **other: Any) -> GPTConfig:
    """One of the published dense sizes: vocabulary 151,936, context 40,960; `other` replaces any field."""
    published = {
        "vocab_size": 151_936, "context_length": 40_960, "n_kv_head": 8, "head_dim": 128, "norm_eps": 1e-6,
        "rotary_base": 1_000_000.0,
    }  # fmt: skip
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_inner": n_inner}
    return GPTConfig(**(LAYOUT | published | shape | other))


SIZES = {
    "qwen3-0.6b": qwen3(28, 16, 1024, 3072),
    "qwen3-1.7b": qwen3(28, 16, 2048, 6144),
    "qwen3-4b": qwen3(36, 32, 2560, 9728),
    "qwen3-8b": qwen3(36, 32, 4096, 12_288, tie_embeddings=False),
}


def _read_windows(fields: Fields) -> dict[str, Any]:
    """With use_sliding_window, windows in the layers of that type, or from max_window_layers on."""
    n_layer, window = fields.require_layers("num_hidden_layers"), fields.get_or_null("sliding_window", 4096)
    first = fields.get("max_window_layers", 28)
    default = [WINDOWED if layer >= first else FULL for layer in range(n_layer)]
    kinds = fields.get("layer_types", default)
    windows = tuple(window if kind == WINDOWED and window is not None else 0 for kind in kinds)
    is_used = fields.get("use_sliding_window", False) and any(windows)
    return {"windows": windows if is_used else ()}


def _write_windows(config: GPTConfig) -> dict[str, Any]:
    if not config.windows:
        return {"use_sliding_window": False}
    kinds = [WINDOWED if window else FULL for window in config.windows]
    return {"use_sliding_window": True, "sliding_window": max(config.windows), "layer_types": kinds}


CONFIG_MAP: ConfigMap = (
    Fixed(**LAYOUT),
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    LayerCount("num_hidden_layers"),
    Field("num_attention_heads", "n_head"),
    Field("num_key_value_heads", "n_kv_head", 32, empty=0),
    Field("hidden_size", "n_embd"),
    Field("head_dim", "head_dim", 128),
    Field("intermediate_size", "n_inner"),
    Field("rms_norm_eps", "norm_eps", 1e-6),
    Rope(),
    Only("hidden_act", "silu", written=True),
    Field("attention_bias", "attention_bias", False, also="attention_out_bias"),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("tie_word_embeddings", "tie_embeddings", False),
    Field("initializer_range", "init_std", 0.02),
    Custom(_read_windows, _write_windows),
)


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "model.layers.{i}.", "blocks.{i}."
    projections = [("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out")]
    modules = [("input_layernorm", "attention_norm")]
    modules += [(f"self_attn.{theirs}", f"attention.{name}") for theirs, name in projections]
    modules += [(f"self_attn.{name}", f"attention.{name}") for name in ("q_norm", "k_norm")]
    modules += [("post_attention_layernorm", "feedforward_norm")]
    modules += [(f"mlp.{name}_proj", f"feedforward.{name}") for name in ("gate", "up", "down")]
    layers = [same(f"{layer}{theirs}.weight", f"{ours}{name}.weight") for theirs, name in modules]
    if config.attention_bias:
        layers += [
            same(f"{layer}self_attn.{theirs}.bias", f"{ours}attention.{name}.bias")
            for theirs, name in projections
        ]
    return outer_rules(config) + per_layer(config, layers)


FAMILY = Family("qwen3", "qwen3", "Qwen3ForCausalLM", CONFIG_MAP, rules, SIZES)
