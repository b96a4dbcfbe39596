"""GPT-J: attention and feed-forward side by side from one norm, interleaved rotary positions on part of each
head (Wang 2021)."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields, name_of
from newleaf.families.gpt2 import ACTIVATIONS, ALIASES
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

SIZES = {
    "gptj-6b": GPTConfig(
        vocab_size=50_400, context_length=2048, n_layer=28, n_head=16, n_embd=4096, block="parallel", shared_norm=True,
        positions="rotary", rotary_dim=64, rotary_interleaved=True, fp32_scores=True, attention_bias=False, attention_out_bias=False,
        head_bias=True, tie_embeddings=False, init="normal",
    )
}  # fmt: skip


def from_hf(fields: Fields) -> GPTConfig:
    fields.take("n_ctx")  # the older name of n_positions
    fields.only("rotary", True)
    fields.only("scale_attn_weights", True)
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("n_positions"),
        n_layer=fields.layers("n_layer"),
        n_head=fields.need("n_head"),
        n_embd=fields.need("n_embd"),
        n_inner=fields.take("n_inner", 0),
        block="parallel",
        shared_norm=True,
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
        positions="rotary",
        rotary_dim=fields.given("rotary_dim", 64) or 0,
        rotary_interleaved=True,
        fp32_scores=True,
        activation=fields.choose("activation_function", ACTIVATIONS, "gelu_new"),
        attention_bias=False,
        attention_out_bias=False,
        head_bias=True,
        tie_embeddings=fields.take("tie_word_embeddings", False),
        embedding_dropout=fields.take("embd_pdrop", 0.0),
        attention_dropout=fields.take("attn_pdrop", 0.0),
        residual_dropout=fields.take("resid_pdrop", 0.0),
        init="normal",
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
        "rotary_dim": config.rotary_dim,
        "activation_function": name_of(config.activation, ACTIVATIONS),
        "tie_word_embeddings": config.tie_embeddings,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    layer = "transformer.h.{i}."
    layers = [
        same(f"{layer}attn.{part}_proj.weight", f"blocks.{{i}}.attention.{part}.weight") for part in "qkv"
    ]
    layers.append(same(f"{layer}attn.out_proj.weight", "blocks.{i}.attention.out.weight"))
    for theirs, ours in (
        ("mlp.fc_in", "feedforward.up"),
        ("mlp.fc_out", "feedforward.down"),
        ("ln_1", "attention_norm"),
    ):
        layers += [
            same(f"{layer}{theirs}.{part}", f"blocks.{{i}}.{ours}.{part}") for part in ("weight", "bias")
        ]
    outer = [same("transformer.wte.weight", "embedding.token.weight")]
    outer += [same(f"transformer.ln_f.{part}", f"final_norm.{part}") for part in ("weight", "bias")]
    outer.append(same("lm_head.bias", "head.bias"))
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gptj", "gptj", "GPTJForCausalLM", from_hf, to_hf, rules, SIZES, aliases=ALIASES)
