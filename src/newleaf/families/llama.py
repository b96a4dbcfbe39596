"""Llama's layout: RMS norm, rotary positions, SwiGLU, grouped queries (https://arxiv.org/abs/2307.09288);
SmolLM2 and TinyLlama have it."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields
from newleaf.families.rope import rope_parameters
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig


def llama(n_layer: int, n_head: int, n_kv_head: int, n_embd: int, n_inner: int, **other: Any) -> GPTConfig:
    fixed: dict[str, Any] = {
        "norm": "rms_norm", "positions": "rotary", "activation": "silu", "gated": True, "attention_bias": False,
        "attention_out_bias": False, "feedforward_bias": False, "init": "normal",
    }  # fmt: skip
    shape = {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": n_kv_head,
        "n_embd": n_embd,
        "n_inner": n_inner,
    }
    return GPTConfig(**(fixed | shape | other))


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


def from_hf(fields: Fields) -> GPTConfig:
    fields.only("hidden_act", "silu")
    fields.only("rope_interleaved", False)
    fields.only("pretraining_tp", 1)
    n_embd, n_head = fields.need("hidden_size"), fields.need("num_attention_heads")
    bias, rope = fields.take("attention_bias", False), fields.rope()
    return llama(
        fields.layers("num_hidden_layers"),
        n_head,
        fields.take("num_key_value_heads", n_head),
        n_embd,
        fields.need("intermediate_size"),
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        head_dim=fields.take("head_dim", n_embd // n_head),
        norm_eps=fields.take("rms_norm_eps", 1e-6),
        rotary_base=rope["base"],
        **rope["yarn"],
        attention_bias=bias,
        attention_out_bias=bias,
        feedforward_bias=fields.take("mlp_bias", False),
        tie_embeddings=fields.take("tie_word_embeddings", False),
        attention_dropout=fields.take("attention_dropout", 0.0),
        init_std=fields.take("initializer_range", 0.02),
    )


def to_hf(config: GPTConfig) -> dict[str, Any]:
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
        "mlp_bias": config.feedforward_bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    layer = "model.layers.{i}."
    projections = [("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out")]
    layers = [
        same(f"{layer}self_attn.{theirs}.weight", f"blocks.{{i}}.attention.{ours}.weight")
        for theirs, ours in projections
    ]
    if config.attention_bias:
        layers += [
            same(f"{layer}self_attn.{theirs}.bias", f"blocks.{{i}}.attention.{ours}.bias")
            for theirs, ours in projections
        ]
    for part in ("weight", "bias") if config.feedforward_bias else ("weight",):
        layers += [
            same(f"{layer}mlp.{name}_proj.{part}", f"blocks.{{i}}.feedforward.{name}.{part}")
            for name in ("gate", "up", "down")
        ]
    layers.append(same(f"{layer}input_layernorm.weight", "blocks.{i}.attention_norm.weight"))
    layers.append(same(f"{layer}post_attention_layernorm.weight", "blocks.{i}.feedforward_norm.weight"))
    outer = [
        same("model.embed_tokens.weight", "embedding.token.weight"),
        same("model.norm.weight", "final_norm.weight"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("llama", "llama", "LlamaForCausalLM", from_hf, to_hf, rules, SIZES)
