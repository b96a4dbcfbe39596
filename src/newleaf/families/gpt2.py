"""GPT-2: pre-norm, learned positions, a final norm, a tied head (Radford et al. 2019)."""

from __future__ import annotations

from newleaf.families.config_map import Choice, ConfigMap, Field, Fixed, Ignored, LayerCount, Only
from newleaf.families.family import Family
from newleaf.families.weights import Rule, conv1d, module, per_layer, same
from newleaf.model import GPTConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu",
    "swish": "silu",
}  # fmt: skip

ALIASES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
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


CONFIG_MAP: ConfigMap = (
    Fixed(init="normal_residual_scaled"),
    Only("add_cross_attention", False),
    Ignored("n_ctx"),  # the older name of n_positions
    Field("vocab_size", "vocab_size"),
    Field("n_positions", "context_length"),
    LayerCount("n_layer"),
    Field("n_head", "n_head"),
    Field("n_embd", "n_embd"),
    Field("n_inner", "n_inner", 0),
    Field("layer_norm_epsilon", "norm_eps", 1e-5),
    Field(
        "scale_attn_weights", "attention_scale", True,
        decode=lambda scaled: 0.0 if scaled else 1.0, encode=lambda scale: scale != 1.0,
    ),
    Field("scale_attn_by_inverse_layer_idx", "scale_by_depth", False),
    Field("reorder_and_upcast_attn", "fp32_scores", False),
    Choice("activation_function", "activation", ACTIVATIONS, "gelu_new"),
    Field("tie_word_embeddings", "tie_embeddings", True),
    Field("embd_pdrop", "embedding_dropout", 0.1),
    Field("attn_pdrop", "attention_dropout", 0.1),
    Field("resid_pdrop", "residual_dropout", 0.1),
    Field("initializer_range", "init_std", 0.02),
)  # fmt: skip


def block_rules(layer: str) -> list[Rule]:
    """The weights of a layer, which GPT-1 names alike."""
    ours = "blocks.{i}."
    qkv = [f"{ours}attention.{part}" for part in "qkv"]
    rules = [conv1d(f"{layer}attn.c_attn.weight", *(f"{name}.weight" for name in qkv))]
    rules.append(Rule(f"{layer}attn.c_attn.bias", tuple(f"{name}.bias" for name in qkv)))
    for theirs, name in (
        ("attn.c_proj", "attention.out"),
        ("mlp.c_fc", "feedforward.up"),
        ("mlp.c_proj", "feedforward.down"),
    ):
        rules.append(conv1d(f"{layer}{theirs}.weight", f"{ours}{name}.weight"))
        rules.append(same(f"{layer}{theirs}.bias", f"{ours}{name}.bias"))
    rules += module(f"{layer}ln_1", f"{ours}attention_norm")
    return rules + module(f"{layer}ln_2", f"{ours}feedforward_norm")


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
        *module("transformer.ln_f", "final_norm"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, block_rules("transformer.h.{i}."))


FAMILY = Family(
    "gpt2", "gpt2", "GPT2LMHeadModel", CONFIG_MAP, rules, SIZES, stores_positions=True, aliases=ALIASES
)
