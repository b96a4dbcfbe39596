"""gpt-oss: a mixture of experts, attention sinks, windows in every second layer, YaRN
(https://arxiv.org/abs/2508.10925)."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.families.family import Family, Fields
from newleaf.families.rope import rope_parameters
from newleaf.families.weights import Rule, per_layer, same
from newleaf.model import GPTConfig

WINDOWED, WHOLE = "sliding_attention", "full_attention"


def gpt_oss(n_layer: int, n_expert: int) -> GPTConfig:
    """One of the published sizes: vocabulary 201,088, context 131,072, four experts a token, a window of 128
    in every second layer."""
    return GPTConfig(
        vocab_size=201_088, context_length=131_072, n_layer=n_layer, n_head=64, n_kv_head=8, head_dim=64, n_embd=2880, n_inner=2880,
        norm="rms_norm", positions="rotary", rotary_base=150_000.0, yarn_factor=32.0, yarn_truncate=False, sinks=True,
        windows=(128, 0) * (n_layer // 2), activation="clamped_swiglu", gated=True, n_expert=n_expert, n_expert_active=4,
        tie_embeddings=False, init="normal",
    )  # fmt: skip


SIZES = {"gpt-oss-20b": gpt_oss(24, 32), "gpt-oss-120b": gpt_oss(36, 128)}


def from_hf(fields: Fields) -> GPTConfig:
    fields.only("hidden_act", "silu")
    # of training with an auxiliary loss that transformers adds only when asked
    fields.take("router_aux_loss_coef")
    fields.take("initial_context_length")
    fields.only("output_router_logits", False)
    packed = fields.take("quantization_config", {})  # storage unpacks the experts
    if packed and (not isinstance(packed, dict) or packed.get("quant_method") != "mxfp4"):
        raise InputError(
            "config.json has a quantization_config whose quant_method is not mxfp4; open the model as it "
            "was before"
        )
    fields.take("experts_per_token")
    n_layer, window = fields.layers("num_hidden_layers"), fields.take("sliding_window", 128)
    kinds = fields.take("layer_types", [WHOLE if i % 2 else WINDOWED for i in range(n_layer)])
    windows = tuple(window if kind == WINDOWED else 0 for kind in kinds)
    default = {
        "rope_type": "yarn",
        "factor": 32.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    }
    rope = fields.rope(default, 150_000.0)
    bias = fields.take("attention_bias", True)
    return GPTConfig(
        vocab_size=fields.need("vocab_size"),
        context_length=fields.need("max_position_embeddings"),
        n_layer=n_layer,
        n_head=fields.need("num_attention_heads"),
        n_kv_head=fields.need("num_key_value_heads"),
        n_embd=fields.need("hidden_size"),
        head_dim=fields.take("head_dim", 64),
        n_inner=fields.need("intermediate_size"),
        norm="rms_norm",
        norm_eps=fields.take("rms_norm_eps", 1e-5),
        positions="rotary",
        rotary_base=rope["base"],
        **rope["yarn"],
        sinks=True,
        windows=windows if any(windows) else (),
        activation="clamped_swiglu",
        gated=True,
        swiglu_alpha=fields.take("swiglu_alpha", 1.702),
        swiglu_limit=fields.take("swiglu_limit", 7.0),
        n_expert=max(1, fields.take("num_local_experts", 128)),
        n_expert_active=fields.take("num_experts_per_tok", 4),
        attention_bias=bias,
        attention_out_bias=bias,
        tie_embeddings=fields.take("tie_word_embeddings", False),
        attention_dropout=fields.take("attention_dropout", 0.0),
        init="normal",
        init_std=fields.take("initializer_range", 0.02),
    )


def to_hf(config: GPTConfig) -> dict[str, Any]:
    windows = config.windows or (0,) * config.n_layer
    return {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "hidden_size": config.n_embd,
        "head_dim": config.head_dim,
        "intermediate_size": config.n_inner,
        "num_local_experts": config.n_expert,
        "num_experts_per_tok": config.n_expert_active,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base,
        "rope_parameters": rope_parameters(config),
        "sliding_window": max(windows) or 128,
        "layer_types": [WINDOWED if window else WHOLE for window in windows],
        "hidden_act": "silu",
        "swiglu_alpha": config.swiglu_alpha,
        "swiglu_limit": config.swiglu_limit,
        "attention_bias": config.attention_bias,
        "attention_dropout": config.attention_dropout,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }


def rules(config: GPTConfig) -> list[Rule]:
    layer, ours = "model.layers.{i}.", "blocks.{i}."
    projections = [
        ("self_attn.q_proj", "attention.q"),
        ("self_attn.k_proj", "attention.k"),
        ("self_attn.v_proj", "attention.v"),
    ]
    projections += [("self_attn.o_proj", "attention.out")]
    layers = [same(f"{layer}{theirs}.weight", f"{ours}{name}.weight") for theirs, name in projections]
    if config.attention_bias:
        layers += [same(f"{layer}{theirs}.bias", f"{ours}{name}.bias") for theirs, name in projections]
    feedforward, experts = f"{ours}feedforward.", f"{layer}mlp.experts."
    layers += [
        same(f"{layer}mlp.router.{part}", f"{feedforward}router.{part}") for part in ("weight", "bias")
    ]
    layers += [
        same(f"{layer}self_attn.sinks", f"{ours}attention.sinks"),
        same(f"{layer}input_layernorm.weight", f"{ours}attention_norm.weight"),
        same(f"{layer}post_attention_layernorm.weight", f"{ours}feedforward_norm.weight"),
        Rule(
            f"{experts}gate_up_proj",
            (f"{feedforward}gate", f"{feedforward}up"),
            transpose=True,
            alternate=True,
        ),
        Rule(
            f"{experts}gate_up_proj_bias",
            (f"{feedforward}gate_bias", f"{feedforward}up_bias"),
            alternate=True,
        ),
        Rule(f"{experts}down_proj", (f"{feedforward}down",), transpose=True),
        same(f"{experts}down_proj_bias", f"{feedforward}down_bias"),
    ]
    outer = [
        same("model.embed_tokens.weight", "embedding.token.weight"),
        same("model.norm.weight", "final_norm.weight"),
    ]
    if not config.tie_embeddings:
        outer.append(same("lm_head.weight", "head.weight"))
    return outer + per_layer(config, layers)


FAMILY = Family(
    "gpt_oss",
    "gpt_oss",
    "GptOssForCausalLM",
    from_hf,
    to_hf,
    rules,
    SIZES,
    aliases={"num_experts": "num_local_experts"},
)
