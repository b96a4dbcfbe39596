"""GPT-Neo: GPT-2's wiring, every other layer local, fp32 scores not divided by √D (Black et al. 2021)."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.families.config_fields import Fields
from newleaf.families.config_map import Choice, ConfigMap, Custom, Field, Fixed, LayerCount
from newleaf.families.family import Family
from newleaf.families.gpt2 import ACTIVATIONS
from newleaf.families.weights import Rule, module, per_layer, same
from newleaf.model import GPTConfig

ALIASES = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}


def gpt_neo(n_layer: int, n_head: int, n_embd: int) -> GPTConfig:
    """One of the published sizes: vocabulary 50,257, context 2,048, a window of 256 in every second layer."""
    return GPTConfig(
        vocab_size=50_257, context_length=2048, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
        attention_bias=False, attention_scale=1.0, fp32_scores=True, windows=(0, 256) * (n_layer // 2),
        init="normal",
    )  # fmt: skip


SIZES = {
    "gpt-neo-125m": gpt_neo(12, 12, 768),
    "gpt-neo-1.3b": gpt_neo(24, 16, 2048),
    "gpt-neo-2.7b": gpt_neo(32, 20, 2560),
}


def _read_windows(fields: Fields) -> dict[str, Any]:
    """A window in each local layer, from the list attention_layers or the patterns of attention_types."""
    n_layer, window = fields.require_layers("num_layers"), fields.get("window_size", 256)
    types = fields.get("attention_types", [[["global", "local"], n_layer // 2]])
    kinds = fields.get("attention_layers")
    if kinds is None:
        for pattern, times in types:
            if type(times) is not int or not 0 <= times <= n_layer or len(pattern) > n_layer:
                raise InputError(f"config.json's attention_types are not patterns for {n_layer} layers")
        kinds = [kind for pattern, times in types for kind in pattern * times]
    if not isinstance(kinds, list) or any(kind not in ("global", "local") for kind in kinds):
        raise InputError("config.json has an attention layer that is neither global nor local")
    windows = tuple(window if kind == "local" else 0 for kind in kinds)
    return {"windows": windows if any(windows) else ()}


def _write_windows(config: GPTConfig) -> dict[str, Any]:
    windows = config.windows or (0,) * config.n_layer
    types = [[["local" if window else "global"], 1] for window in windows]
    return {"window_size": max(windows) or 256, "attention_types": types}


CONFIG_MAP: ConfigMap = (
    Fixed(attention_bias=False, attention_scale=1.0, fp32_scores=True, init="normal"),
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    LayerCount("num_layers"),
    Field("num_heads", "n_head"),
    Field("hidden_size", "n_embd"),
    Field("intermediate_size", "n_inner", 0),
    Field("layer_norm_epsilon", "norm_eps", 1e-5),
    Choice("activation_function", "activation", ACTIVATIONS, "gelu_new"),
    Custom(_read_windows, _write_windows),
    Field("tie_word_embeddings", "tie_embeddings", True),
    Field("embed_dropout", "embedding_dropout", 0.0),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("resid_dropout", "residual_dropout", 0.0),
    Field("initializer_range", "init_std", 0.02),
)


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "transformer.h.{i}.", "blocks.{i}."
    layers = [
        same(f"{layer}attn.attention.{part}_proj.weight", f"{ours}attention.{part}.weight") for part in "qkv"
    ]
    for theirs, name in (
        ("attn.attention.out_proj", "attention.out"),
        ("mlp.c_fc", "feedforward.up"),
        ("mlp.c_proj", "feedforward.down"),
        ("ln_1", "attention_norm"),
        ("ln_2", "feedforward_norm"),
    ):
        layers += module(f"{layer}{theirs}", f"{ours}{name}")
    outer = [
        same("transformer.wte.weight", "embedding.token.weight"),
        same("transformer.wpe.weight", "embedding.position.weight"),
        *module("transformer.ln_f", "final_norm"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family("gpt_neo", "gpt_neo", "GPTNeoForCausalLM", CONFIG_MAP, rules, SIZES, aliases=ALIASES)
