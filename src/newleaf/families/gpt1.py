"""GPT-1: norms after each addition, learned positions, no final norm, a tied head (Radford et al. 2018)."""

from __future__ import annotations

from newleaf.families.config_map import Choice, ConfigMap, Field, Fixed, Ignored, LayerCount
from newleaf.families.family import Family
from newleaf.families.gpt2 import ALIASES, block_rules, position_rule
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}  # its "gelu" is tanh's

SIZES = {
    "gpt1-117m": GPTConfig(
        vocab_size=40_478, context_length=512, n_layer=12, n_head=12, n_embd=768, block="post_norm",
        final_norm=False, embedding_dropout=0.1, attention_dropout=0.1, residual_dropout=0.1, init="normal",
    )
}  # fmt: skip


CONFIG_MAP: ConfigMap = (
    Fixed(block="post_norm", final_norm=False, init="normal"),
    Ignored("n_ctx"),  # the older name of n_positions
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    LayerCount("n_layer"),
    Field("n_head", "n_head"),
    Field("n_embd", "n_embd"),
    Field("layer_norm_epsilon", "norm_eps", 1e-5),
    Choice("afn", "activation", ACTIVATIONS, "gelu"),
    Field("tie_word_embeddings", "tie_embeddings", True),
    Field("embd_pdrop", "embedding_dropout", 0.1),
    Field("attn_pdrop", "attention_dropout", 0.1),
    Field("resid_pdrop", "residual_dropout", 0.1),
    Field("initializer_range", "init_std", 0.02),
)


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
    CONFIG_MAP,
    rules,
    SIZES,
    stores_positions=True,
    aliases=ALIASES,
)
