"""GPT-1: norms after each addition, learned positions, no final norm, a tied head (Radford et al. 2018)."""

from __future__ import annotations

from typing import Any

from newleaf.families.family import Family, Fields, name_of
from newleaf.families.gpt2 import ALIASES, block_rules, position_rule
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

# OpenAI's "gelu" is the tanh form
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}

SIZES = {
    "gpt1-117m": GPTConfig(
        vocab_size=40_478, context_length=512, n_layer=12, n_head=12, n_embd=768, block="post_norm", final_norm=False,
        embedding_dropout=0.1, attention_dropout=0.1, residual_dropout=0.1, init="normal",
    )
}  # fmt: skip


def from_hf(fields: Fields) -> GPTConfig:
    fields.take("n_ctx")  # the older name of n_positions
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("n_positions"),
        n_layer=fields.layers("n_layer"),
        n_head=fields.need("n_head"),
        n_embd=fields.need("n_embd"),
        block="post_norm",
        final_norm=False,
        norm_eps=fields.take("layer_norm_epsilon", 1e-5),
        activation=fields.choose("afn", ACTIVATIONS, "gelu"),
        tie_embeddings=fields.take("tie_word_embeddings", True),
        embedding_dropout=fields.take("embd_pdrop", 0.1),
        attention_dropout=fields.take("attn_pdrop", 0.1),
        residual_dropout=fields.take("resid_pdrop", 0.1),
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
        "layer_norm_epsilon": config.norm_eps,
        "afn": name_of(config.activation, ACTIVATIONS),
        "tie_word_embeddings": config.tie_embeddings,
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    outer = [
        same("transformer.tokens_embed.weight", "embedding.token.weight"),
        position_rule(config, "transformer.positions_embed.weight"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, block_rules("transformer.h.{i}."))


FAMILY = Family(
    "gpt1",
    "openai-gpt",
    "OpenAIGPTLMHeadModel",
    from_hf,
    to_hf,
    rules,
    SIZES,
    stores_positions=True,
    aliases=ALIASES,
)
