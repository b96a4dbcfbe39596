"""GPT-Neo: GPT-2's wiring, every other layer local, scores in fp32 and not divided by √D (Black et al.
2021)."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.families.family import Family, Fields, name_of
from newleaf.families.gpt2 import ACTIVATIONS
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

ALIASES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}


def gpt_neo(n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    """One of the published sizes: vocabulary 50,257, context 2,048, a window of 256 in every second layer."""
    return GPTConfig(
        vocab_size=50_257, context_length=2048, n_layer=n_layer, n_head=n_head, n_embd=n_embd, attention_bias=False,
        attention_scale=1.0, fp32_scores=True, windows=(0, 256) * (n_layer // 2), init="normal",
    )  # fmt: skip


SIZES = {
    "gpt-neo-125m": gpt_neo(12, 12, 768),
    "gpt-neo-1.3b": gpt_neo(24, 16, 2048),
    "gpt-neo-2.7b": gpt_neo(32, 20, 2560),
}


def from_hf(fields: Fields) -> GPTConfig:
    n_layer, window = fields.layers("num_layers"), fields.take("window_size", 256)
    windows = tuple(window if kind == "local" else 0 for kind in _kinds(fields, n_layer))
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        n_layer=n_layer,
        n_head=fields.need("num_heads"),
        n_embd=fields.need("hidden_size"),
        n_inner=fields.take("intermediate_size", 0),
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu_new"),
        attention_bias=False,
        attention_scale=1.0,
        fp32_scores=True,
        windows=windows if any(windows) else (),
        tie_embeddings=fields.take("tie_word_embeddings", True),
        embedding_dropout=fields.take("embed_dropout", 0.0),
        attention_dropout=fields.take("attention_dropout", 0.0),
        residual_dropout=fields.take("resid_dropout", 0.0),
        init="normal",
        init_std=fields.take("initializer_range", 0.02),
    )


def _kinds(fields: Fields, n_layer: int) -> list[Any]:
    """What each layer sees, "global" or "local": as attention_layers spells it out, or as attention_types
    repeats it."""
    types, layers = (
        fields.take("attention_types", [[["global", "local"], n_layer // 2]]),
        fields.take("attention_layers"),
    )
    if layers is None:
        if any(
            type(times) is not int or not 0 <= times <= n_layer or len(kinds) > n_layer
            for kinds, times in types
        ):
            raise InputError(f"config.json's attention_types are not patterns for {n_layer} layers")
        layers = [kind for kinds, times in types for kind in kinds * times]
    if not isinstance(layers, list) or any(kind not in ("global", "local") for kind in layers):
        raise InputError("config.json has an attention layer that is neither global nor local")
    return layers


def to_hf(config: GPTConfig) -> dict[str, Any]:
    windows = config.windows or (0,) * config.n_layer
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": config.n_inner,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": name_of(config.activation, ACTIVATIONS),
        "window_size": max(windows) or 256,
        "attention_types": [[["local" if window else "global"], 1] for window in windows],
        "tie_word_embeddings": config.tie_embeddings,
        "embed_dropout": config.embedding_dropout,
        "attention_dropout": config.attention_dropout,
        "resid_dropout": config.residual_dropout,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    layer = "transformer.h.{i}."
    layers = [
        same(f"{layer}attn.attention.{part}_proj.weight", f"blocks.{{i}}.attention.{part}.weight")
        for part in "qkv"
    ]
    for theirs, ours in (
        ("attn.attention.out_proj", "attention.out"),
        ("mlp.c_fc", "feedforward.up"),
        ("mlp.c_proj", "feedforward.down"),
        ("ln_1", "attention_norm"),
        ("ln_2", "feedforward_norm"),
    ):
        layers += [
            same(f"{layer}{theirs}.{part}", f"blocks.{{i}}.{ours}.{part}") for part in ("weight", "bias")
        ]
    outer = [
        same("transformer.wte.weight", "embedding.token.weight"),
        same("transformer.wpe.weight", "embedding.position.weight"),
        same("transformer.ln_f.weight", "final_norm.weight"),
        same("transformer.ln_f.bias", "final_norm.bias"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gpt_neo", "gpt_neo", "GPTNeoForCausalLM", from_hf, to_hf, rules, SIZES, aliases=ALIASES)
