"""Qwen3's dense layout: what newleaf's own pretraining makes (https://arxiv.org/abs/2505.09388)."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields
from newleaf.families.rope import rope_parameters
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

WINDOWED, WHOLE = "sliding_attention", "full_attention"


def qwen3(n_layer: int, n_head: int, n_embd: int, n_inner: int, **other: Any) -> GPTConfig:
    """One of the published dense sizes: vocabulary 151,936, context 40,960, 8 key/value heads, heads of
    128."""
    fixed: dict[str, Any] = {
        "vocab_size": 151_936, "context_length": 40_960, "n_kv_head": 8, "head_dim": 128, "norm": "rms_norm", "norm_eps": 1e-6,
        "qk_norm": True, "positions": "rotary", "rotary_base": 1_000_000.0, "activation": "silu", "gated": True, "attention_bias": False,
        "attention_out_bias": False, "feedforward_bias": False, "init": "normal",
    }  # fmt: skip
    return GPTConfig(
        **(fixed | {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "n_inner": n_inner} | other)
    )


SIZES = {
    "qwen3-0.6b": qwen3(28, 16, 1024, 3072),
    "qwen3-1.7b": qwen3(28, 16, 2048, 6144),
    "qwen3-4b": qwen3(36, 32, 2560, 9728),
    "qwen3-8b": qwen3(36, 32, 4096, 12_288, tie_embeddings=False),
}


def from_hf(fields: Fields) -> GPTConfig:
    fields.only("hidden_act", "silu")
    n_embd, n_head = fields.need("hidden_size"), fields.need("num_attention_heads")
    bias, rope = fields.take("attention_bias", False), fields.rope()
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        n_layer=fields.layers("num_hidden_layers"),
        windows=_windows(fields),
        n_head=n_head,
        n_kv_head=fields.given("num_key_value_heads", 32) or n_head,
        n_embd=n_embd,
        head_dim=fields.take("head_dim", 128),
        n_inner=fields.need("intermediate_size"),
        norm="rms_norm",
        norm_eps=fields.take("rms_norm_eps", 1e-6),
        qk_norm=True,
        positions="rotary",
        rotary_base=rope["base"],
        **rope["yarn"],
        activation="silu",
        gated=True,
        attention_bias=bias,
        attention_out_bias=bias,
        feedforward_bias=False,
        tie_embeddings=fields.take("tie_word_embeddings", False),
        attention_dropout=fields.take("attention_dropout", 0.0),
        init="normal",
        init_std=fields.take("initializer_range", 0.02),
    )


def _windows(fields: Fields) -> tuple[int, ...]:
    """Windows where use_sliding_window asks for them: in the layers of that type, or from max_window_layers
    on."""
    n_layer, window = fields.layers("num_hidden_layers"), fields.given("sliding_window", 4096)
    first = fields.take("max_window_layers", 28)
    kinds = fields.take("layer_types", [WINDOWED if layer >= first else WHOLE for layer in range(n_layer)])
    windows = tuple(window if kind == WINDOWED and window is not None else 0 for kind in kinds)
    return windows if fields.take("use_sliding_window", False) and any(windows) else ()


def to_hf(config: GPTConfig) -> dict[str, Any]:
    windows: dict[str, Any] = {"use_sliding_window": bool(config.windows)}
    if config.windows:
        windows["sliding_window"] = max(config.windows)
        windows["layer_types"] = [WINDOWED if window else WHOLE for window in config.windows]
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "hidden_size": config.n_embd,
        "head_dim": config.head_dim,
        "intermediate_size": config.n_inner,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,
        "rope_parameters": rope_parameters(config),
        "hidden_act": "silu",
        "attention_bias": config.attention_bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    } | windows


def rules(config: GPTConfig) -> list[Rule]:
    layer = "model.layers.{i}."
    pairs = [
        ("input_layernorm", "attention_norm"),
        ("self_attn.q_proj", "attention.q"),
        ("self_attn.k_proj", "attention.k"),
        ("self_attn.v_proj", "attention.v"),
        ("self_attn.o_proj", "attention.out"),
        ("self_attn.q_norm", "attention.q_norm"),
        ("self_attn.k_norm", "attention.k_norm"),
        ("post_attention_layernorm", "feedforward_norm"),
        ("mlp.gate_proj", "feedforward.gate"),
        ("mlp.up_proj", "feedforward.up"),
        ("mlp.down_proj", "feedforward.down"),
    ]
    layers = [same(f"{layer}{theirs}.weight", f"blocks.{{i}}.{ours}.weight") for theirs, ours in pairs]
    if config.attention_bias:
        layers += [same(f"{layer}{theirs}.bias", f"blocks.{{i}}.{ours}.bias") for theirs, ours in pairs[1:5]]
    outer = [
        same("model.embed_tokens.weight", "embedding.token.weight"),
        same("model.norm.weight", "final_norm.weight"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("qwen3", "qwen3", "Qwen3ForCausalLM", from_hf, to_hf, rules, SIZES)
