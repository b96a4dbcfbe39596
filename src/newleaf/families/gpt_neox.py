"""GPT-NeoX and Pythia: parallel blocks, rotary positions on a quarter of each head (Black et al. 2022)."""

from __future__ import annotations

from newleaf.families.config_map import Choice, ConfigMap, Field, Fixed, LayerCount
from newleaf.families.family import Family
from newleaf.families.rope import Rope
from newleaf.families.weights import Rule, module, per_layer, same
from newleaf.model import GPTConfig

ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "silu": "silu",
}  # fmt: skip


def neox(n_layer: int, n_head: int, n_embd: int, vocab_size: int = 50_304) -> GPTConfig:
    """One of the published sizes: context 2,048; the Pythia suite by default."""
    return GPTConfig(
        vocab_size=vocab_size, context_length=2048, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        block="parallel", positions="rotary", rotary_dim=n_embd // n_head // 4, activation="gelu",
        tie_embeddings=False, init="normal",
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


CONFIG_MAP: ConfigMap = (
    Fixed(positions="rotary", init="normal"),
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    LayerCount("num_hidden_layers"),
    Field("num_attention_heads", "n_head"),
    Field("hidden_size", "n_embd"),
    Field("intermediate_size", "n_inner"),
    Field(
        "use_parallel_residual", "block", True,
        decode=lambda parallel: "parallel" if parallel else "pre_norm",
        encode=lambda block: block == "parallel",
    ),
    Field("layer_norm_eps", "norm_eps", 1e-5),
    Rope(base_field="rotary_emb_base", share_field="rotary_pct", share=0.25),
    Choice("hidden_act", "activation", ACTIVATIONS, "gelu"),
    Field("attention_bias", "attention_bias", True, also="attention_out_bias"),
    Field("tie_word_embeddings", "tie_embeddings", False),
    Field("hidden_dropout", "residual_dropout", 0.0, also="embedding_dropout"),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("initializer_range", "init_std", 0.02),
)  # fmt: skip


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "gpt_neox.layers.{i}.", "blocks.{i}."
    layers = []
    for part in ("weight", "bias") if config.attention_bias else ("weight",):
        qkv = tuple(f"{ours}attention.{name}.{part}" for name in "qkv")
        layers.append(Rule(f"{layer}attention.query_key_value.{part}", qkv, heads=config.n_head))
        layers.append(same(f"{layer}attention.dense.{part}", f"{ours}attention.out.{part}"))
    for theirs, name in (
        ("mlp.dense_h_to_4h", "feedforward.up"),
        ("mlp.dense_4h_to_h", "feedforward.down"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "feedforward_norm"),
    ):
        layers += module(f"{layer}{theirs}", f"{ours}{name}")
    outer = [same("gpt_neox.embed_in.weight", "embedding.token.weight")]
    outer += module("gpt_neox.final_layer_norm", "final_norm")
    if not config.tie_embeddings:
        outer.append(same("embed_out.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gpt_neox", "gpt_neox", "GPTNeoXForCausalLM", CONFIG_MAP, rules, SIZES)
