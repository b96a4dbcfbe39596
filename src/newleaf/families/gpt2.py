"""GPT-2: pre-norm, learned positions, a final norm, a tied head (Radford et al. 2019)."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields, name_of
from newleaf.families.weights import Rule, conv1d, per_layer, same
from newleaf.model import GPTConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

ALIASES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
}  # fmt: skip


def gpt2(n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    """One of the published sizes: vocabulary 50,257, context 1,024."""
    return GPTConfig(
        vocab_size=50_257, context_length=1024, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        embedding_dropout=0.1, attention_dropout=0.1, residual_dropout=0.1,
    )  # fmt: skip


SIZES = {
    "gpt2-124m": gpt2(12, 12, 768),
    "gpt2-355m": gpt2(24, 16, 1024),
    "gpt2-774m": gpt2(36, 20, 1280),
    "gpt2-1.5b": gpt2(48, 25, 1600),
    "distilgpt2-82m": gpt2(6, 12, 768),
}


def from_hf(fields: Fields) -> GPTConfig:
    fields.only("add_cross_attention", False)
    fields.take("n_ctx")  # the older name of n_positions
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("n_positions"),
        n_layer=fields.layers("n_layer"),
        n_head=fields.need("n_head"),
        n_embd=fields.need("n_embd"),
        n_inner=fields.take("n_inner", 0),
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
        attention_scale=0.0 if fields.take("scale_attn_weights", True) else 1.0,
        scale_by_depth=fields.take("scale_attn_by_inverse_layer_idx", False),
        fp32_scores=fields.take("reorder_and_upcast_attn", False),
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu_new"),
        tie_embeddings=fields.take("tie_word_embeddings", True),
        embedding_dropout=fields.take("embd_pdrop", 0.1),
        attention_dropout=fields.take("attn_pdrop", 0.1),
        residual_dropout=fields.take("resid_pdrop", 0.1),
        init="normal_residual_scaled",
        init_std=fields.take("initializer_range", 0.02),
    )


def to_hf(config: GPTConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner,
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale != 1.0,
        "scale_attn_by_inverse_layer_idx": config.scale_by_depth,
        "reorder_and_upcast_attn": config.fp32_scores,
        "activation_function": name_of(config.activation, ACTIVATIONS),
        "tie_word_embeddings": config.tie_embeddings,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "initializer_range": config.init_std,
    }


def block_rules(layer: str) -> list[Rule]:
    """The weights of a layer, which GPT-1 names alike."""
    qkv = [f"blocks.{{i}}.attention.{part}" for part in "qkv"]
    rules = [conv1d(f"{layer}attn.c_attn.weight", *(f"{name}.weight" for name in qkv))]
    rules.append(Rule(f"{layer}attn.c_attn.bias", tuple(f"{name}.bias" for name in qkv)))
    for theirs, ours in (
        ("attn.c_proj", "attention.out"),
        ("mlp.c_fc", "feedforward.up"),
        ("mlp.c_proj", "feedforward.down"),
    ):
        rules.append(conv1d(f"{layer}{theirs}.weight", f"blocks.{{i}}.{ours}.weight"))
        rules.append(same(f"{layer}{theirs}.bias", f"blocks.{{i}}.{ours}.bias"))
    for theirs, ours in (("ln_1", "attention_norm"), ("ln_2", "feedforward_norm")):
        rules += [
            same(f"{layer}{theirs}.{part}", f"blocks.{{i}}.{ours}.{part}") for part in ("weight", "bias")
        ]
    return rules


def position_rule(config: GPTConfig, theirs: str) -> Rule:
    """Learned positions, or the fixed sinusoids written out as if they had been learned."""
    if config.positions == "sinusoidal":
        from newleaf.model.embedding import sinusoidal_table

        return Rule(theirs, (), derived=lambda: sinusoidal_table(config.context_length, config.n_embd))
    return same(theirs, "embedding.position.weight")


def rules(config: GPTConfig) -> list[Rule]:
    outer = [
        same("transformer.wte.weight", "embedding.token.weight"),
        position_rule(config, "transformer.wpe.weight"),
        same("transformer.ln_f.weight", "final_norm.weight"),
        same("transformer.ln_f.bias", "final_norm.bias"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, block_rules("transformer.h.{i}."))


FAMILY = Family(
    "gpt2", "gpt2", "GPT2LMHeadModel", from_hf, to_hf, rules, SIZES, stores_positions=True, aliases=ALIASES
)
