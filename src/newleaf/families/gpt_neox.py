"""GPT-NeoX and Pythia: rotary positions on a quarter of each head, attention and feed-forward side by side
(Black et al. 2022)."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields, name_of
from newleaf.families.rope import rope_parameters
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}


def neox(n_layer: int, n_head: int, n_embd: int, vocab_size: int = 50_304) -> GPTConfig:
    """One of the published sizes: context 2,048; the Pythia suite by default."""
    return GPTConfig(
        vocab_size=vocab_size, context_length=2048, n_layer=n_layer, n_head=n_head, n_embd=n_embd, block="parallel",
        positions="rotary", rotary_dim=n_embd // n_head // 4, activation="gelu", tie_embeddings=False, init="normal",
    )  # fmt: skip


SIZES = {
    "gpt-neox-20b": neox(44, 64, 6144, 50_432).replace(activation="gelu_tanh"),
    "pythia-14m": neox(6, 4, 128),
    "pythia-70m": neox(6, 8, 512),
    "pythia-160m": neox(12, 12, 768),
    "pythia-410m": neox(24, 16, 1024),
    "pythia-1b": neox(16, 8, 2048),
    "pythia-1.4b": neox(24, 16, 2048),
    "pythia-2.8b": neox(32, 32, 2560, 50_304),
    "pythia-6.9b": neox(32, 32, 4096, 50_432),
    "pythia-12b": neox(36, 40, 5120, 50_688),
}


def from_hf(fields: Fields) -> GPTConfig:
    rope = fields.rope(older_base="rotary_emb_base", share="rotary_pct")
    n_embd, n_head = fields.need("hidden_size"), fields.need("num_attention_heads")
    bias = fields.take("attention_bias", True)
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        n_layer=fields.layers("num_hidden_layers"),
        n_head=n_head,
        n_embd=n_embd,
        n_inner=fields.need("intermediate_size"),
        block="parallel" if fields.take("use_parallel_residual", True) else "pre_norm",
        norm_eps=fields.take("layer_norm_eps", 1e-5),
        positions="rotary",
        rotary_base=rope["base"],
        **rope["yarn"],
        rotary_dim=int(n_embd // n_head * rope.get("share", 0.25)),
        activation=fields.choose("hidden_act", ACTIVATIONS, "gelu"),
        attention_bias=bias,
        attention_out_bias=bias,
        tie_embeddings=fields.take("tie_word_embeddings", False),
        embedding_dropout=fields.take("hidden_dropout", 0.0),
        attention_dropout=fields.take("attention_dropout", 0.0),
        residual_dropout=fields.take("hidden_dropout", 0.0),
        init="normal",
        init_std=fields.take("initializer_range", 0.02),
    )


def to_hf(config: GPTConfig) -> dict[str, Any]:
    share = config.rotary_dim / config.head_dim
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": config.n_inner,
        "use_parallel_residual": config.block == "parallel",
        "layer_norm_eps": config.norm_eps,
        "rotary_pct": share,
        "rotary_emb_base": config.rotary_base,
        "rope_parameters": rope_parameters(config) | {"partial_rotary_factor": share},
        "hidden_act": name_of(config.activation, ACTIVATIONS),
        "attention_bias": config.attention_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout": config.residual_dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    layer, parts = "gpt_neox.layers.{i}.", ("weight", "bias")
    attention_parts = parts if config.attention_bias else parts[:1]
    layers = []
    for part in attention_parts:
        qkv = tuple(f"blocks.{{i}}.attention.{name}.{part}" for name in "qkv")
        layers.append(Rule(f"{layer}attention.query_key_value.{part}", qkv, heads=config.n_head))
        layers.append(same(f"{layer}attention.dense.{part}", f"blocks.{{i}}.attention.out.{part}"))
    for theirs, ours in (
        ("mlp.dense_h_to_4h", "feedforward.up"),
        ("mlp.dense_4h_to_h", "feedforward.down"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "feedforward_norm"),
    ):
        layers += [same(f"{layer}{theirs}.{part}", f"blocks.{{i}}.{ours}.{part}") for part in parts]
    outer = [same("gpt_neox.embed_in.weight", "embedding.token.weight")]
    outer += [same(f"gpt_neox.final_layer_norm.{part}", f"final_norm.{part}") for part in parts]
    if not config.tie_embeddings:
        outer.append(same("embed_out.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gpt_neox", "gpt_neox", "GPTNeoXForCausalLM", from_hf, to_hf, rules, SIZES)
