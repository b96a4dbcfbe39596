"""gpt-oss: mixture of experts, attention sinks, windows in every second layer, YaRN (arXiv:2508.10925)."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.families.config_fields import Fields
from newleaf.families.config_map import ConfigMap, Custom, Field, Fixed, Ignored, LayerCount, Only
from newleaf.families.family import Family
from newleaf.families.llama import outer_rules
from newleaf.families.qwen3 import FULL, WINDOWED
from newleaf.families.rope import Rope
from newleaf.families.weights import Rule, module, per_layer, same
from newleaf.model import GPTConfig

LAYOUT: dict[str, Any] = {
    "norm": "rms_norm", "positions": "rotary", "sinks": True, "activation": "clamped_swiglu", "gated": True,
    "init": "normal",
}  # fmt: skip


def gpt_oss(n_layer: int, n_expert: int) -> GPTConfig:
    """One of the published sizes: vocabulary 201,088, context 131,072, a window in every second layer."""
    return GPTConfig(
        vocab_size=201_088, context_length=131_072, n_layer=n_layer, n_head=64, n_kv_head=8, head_dim=64,
        n_embd=2880, n_inner=2880, rotary_base=150_000.0, yarn_factor=32.0, yarn_truncate=False,
        windows=(128, 0) * (n_layer // 2), n_expert=n_expert, n_expert_active=4, tie_embeddings=False,
        **LAYOUT,
    )  # fmt: skip


SIZES = {"gpt-oss-20b": gpt_oss(24, 32), "gpt-oss-120b": gpt_oss(36, 128)}


def _read_packing(fields: Fields) -> dict[str, Any]:
    """Experts in MXFP4 are unpacked by storage; any other packing is refused."""
    packing = fields.get("quantization_config", {})
    if packing and (not isinstance(packing, dict) or packing.get("quant_method") != "mxfp4"):
        raise InputError(
            "config.json has a quantization_config whose quant_method is not mxfp4; open the model as it "
            "was before"
        )
    return {}


def _read_windows(fields: Fields) -> dict[str, Any]:
    n_layer, window = fields.require_layers("num_hidden_layers"), fields.get("sliding_window", 128)
    kinds = fields.get("layer_types", [FULL if layer % 2 else WINDOWED for layer in range(n_layer)])
    windows = tuple(window if kind == WINDOWED else 0 for kind in kinds)
    return {"windows": windows if any(windows) else ()}


def _write_windows(config: GPTConfig) -> dict[str, Any]:
    windows = config.windows or (0,) * config.n_layer
    kinds = [WINDOWED if window else FULL for window in windows]
    return {"sliding_window": max(windows) or 128, "layer_types": kinds}


YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}

CONFIG_MAP: ConfigMap = (
    Fixed(**LAYOUT),
    # The first is of training with an auxiliary loss, which transformers adds only when asked.
    Ignored("router_aux_loss_coef", "initial_context_length", "experts_per_token"),
    Only("output_router_logits", False),
    Custom(_read_packing),
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    LayerCount("num_hidden_layers"),
    Field("num_attention_heads", "n_head"),
    Field("num_key_value_heads", "n_kv_head"),
    Field("hidden_size", "n_embd"),
    Field("head_dim", "head_dim", 64),
    Field("intermediate_size", "n_inner"),
    Field("num_local_experts", "n_expert", 128, decode=lambda count: max(1, count)),
    Field("num_experts_per_tok", "n_expert_active", 4),
    Field("rms_norm_eps", "norm_eps", 1e-5),
    Rope(default=YARN, base=150_000.0),
    Custom(_read_windows, _write_windows),
    Only("hidden_act", "silu", written=True),
    Field("swiglu_alpha", "swiglu_alpha", 1.702),
    Field("swiglu_limit", "swiglu_limit", 7.0),
    Field("attention_bias", "attention_bias", True, also="attention_out_bias"),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("tie_word_embeddings", "tie_embeddings", False),
    Field("initializer_range", "init_std", 0.02),
)


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "model.layers.{i}.", "blocks.{i}."
    projections = [("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("o_proj", "out")]
    layers = [
        same(f"{layer}self_attn.{theirs}.{part}", f"{ours}attention.{name}.{part}")
        for part in (("weight", "bias") if config.attention_bias else ("weight",))
        for theirs, name in projections
    ]
    feedforward, experts = f"{ours}feedforward.", f"{layer}mlp.experts."
    gate_up = f"{feedforward}gate", f"{feedforward}up"
    gate_up_bias = f"{feedforward}gate_bias", f"{feedforward}up_bias"
    layers += module(f"{layer}mlp.router", f"{feedforward}router")
    layers += [
        same(f"{layer}self_attn.sinks", f"{ours}attention.sinks"),
        same(f"{layer}input_layernorm.weight", f"{ours}attention_norm.weight"),
        same(f"{layer}post_attention_layernorm.weight", f"{ours}feedforward_norm.weight"),
        Rule(f"{experts}gate_up_proj", gate_up, transpose=True, alternate=True),
        Rule(f"{experts}gate_up_proj_bias", gate_up_bias, alternate=True),
        Rule(f"{experts}down_proj", (f"{feedforward}down",), transpose=True),
        same(f"{experts}down_proj_bias", f"{feedforward}down_bias"),
    ]
    return outer_rules(config) + per_layer(config, layers)


ALIASES = {"num_experts": "num_local_experts"}
FAMILY = Family("gpt_oss", "gpt_oss", "GptOssForCausalLM", CONFIG_MAP, rules, SIZES, aliases=ALIASES)
