"""Randomly initialised transformers models: the reference for logits, losses and texts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "gpt1": (transformers.OpenAIGPTConfig, {"n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 64}),
    "gpt1-relu": (transformers.OpenAIGPTConfig, {"n_embd": 32, "n_layer": 1, "n_head": 1, "n_positions": 64,
                                                 "afn": "relu"}),
    "gpt1-untied": (
        transformers.OpenAIGPTConfig,
        {"n_embd": 30, "n_layer": 2, "n_head": 5, "n_positions": 64, "afn": "silu",
         "tie_word_embeddings": False},
    ),
    "gpt2": (transformers.GPT2Config, {"n_embd": 40, "n_layer": 2, "n_head": 5, "n_positions": 64}),
    "gpt2-wide-relu": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 80,
         "activation_function": "relu"},
    ),
    "gpt2-untied": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "activation_function": "gelu",
         "tie_word_embeddings": False},
    ),
    "gpt2-scores-by-depth": (
        transformers.GPT2Config,
        {"n_embd": 36, "n_layer": 3, "n_head": 3, "n_positions": 64, "scale_attn_by_inverse_layer_idx": True,
         "reorder_and_upcast_attn": True},
    ),
    "gpt2-unscaled": (
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "scale_attn_weights": False,
         "activation_function": "silu"},
    ),
    "qwen3": (
        transformers.Qwen3Config,
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "head_dim": 16,
         "intermediate_size": 80, "max_position_embeddings": 64},
    ),
    "qwen3-tied-bias": (
        transformers.Qwen3Config,
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3,
         "head_dim": 8,
         "intermediate_size": 64, "max_position_embeddings": 64, "tie_word_embeddings": True,
         "attention_bias": True,
         "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    ),
    "qwen3-windows": (
        transformers.Qwen3Config,
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
         "head_dim": 8,
         "intermediate_size": 48, "max_position_embeddings": 64, "use_sliding_window": True,
         "sliding_window": 6, "max_window_layers": 1},
    ),
    "llama": (
        transformers.LlamaConfig,
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
         "intermediate_size": 80,
         "max_position_embeddings": 64},
    ),
    "llama-tied-bias": (
        transformers.LlamaConfig,
        {"hidden_size": 30, "num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 1,
         "head_dim": 10,
         "intermediate_size": 40, "max_position_embeddings": 64, "tie_word_embeddings": True,
         "attention_bias": True},
    ),
    "llama-feedforward-bias": (
        transformers.LlamaConfig,
        {"hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3,
         "intermediate_size": 50,
         "max_position_embeddings": 64, "mlp_bias": True},
    ),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        {"hidden_size": 30, "num_layers": 4, "num_heads": 3, "max_position_embeddings": 64, "window_size": 7,
         "attention_types": [[["global", "local"], 2]]},
    ),
    "gpt_neo-local-wide": (
        transformers.GPTNeoConfig,
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64, "window_size": 1,
         "intermediate_size": 50,
         "attention_types": [[["local"], 2]], "activation_function": "relu"},
    ),
    "gpt_neo-untied": (
        transformers.GPTNeoConfig,
        {"hidden_size": 20, "num_layers": 2, "num_heads": 5, "max_position_embeddings": 64,
         "tie_word_embeddings": False,
         "attention_types": [[["global"], 2]], "activation_function": "gelu"},
    ),
    "gpt3": (
        transformers.GPTNeoConfig,
        {"hidden_size": 48, "num_layers": 2, "num_heads": 3, "max_position_embeddings": 64, "window_size": 9,
         "attention_types": [[["global", "local"], 1]], "newleaf": {"family": "gpt3"}},
    ),
    "gptj": (transformers.GPTJConfig, {"n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 64,
                                       "rotary_dim": 4}),
    "gptj-whole-head": (
        transformers.GPTJConfig, {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64,
                                  "rotary_dim": 8, "n_inner": 60},
    ),
    "gptj-tied": (
        transformers.GPTJConfig,
        {"n_embd": 40, "n_layer": 2, "n_head": 5, "n_positions": 64, "rotary_dim": 2,
         "tie_word_embeddings": True,
         "activation_function": "relu"},
    ),
    "gpt_neox": (
        transformers.GPTNeoXConfig,
        {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 100,
         "max_position_embeddings": 64},
    ),
    "gpt_neox-sequential": (
        transformers.GPTNeoXConfig,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 64,
         "use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True,
         "hidden_act": "gelu_new",
         "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0}},
    ),
    "gpt_oss": (
        transformers.GptOssConfig,
        {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "head_dim": 12,
         "intermediate_size": 20, "num_local_experts": 6, "num_experts_per_tok": 2,
         "max_position_embeddings": 64, "sliding_window": 9,
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "beta_fast": 32.0,
                             "beta_slow": 1.0,
                             "truncate": False, "original_max_position_embeddings": 16}},
    ),
    "gpt_oss-tied": (
        transformers.GptOssConfig,
        {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 1,
         "head_dim": 8,
         "intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 1,
         "max_position_embeddings": 64, "sliding_window": 5,
         "tie_word_embeddings": True, "rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0,
                                                          "factor": 8.0, "beta_fast": 4.0,
                                                          "beta_slow": 1.0, "truncate": True,
                                                          "original_max_position_embeddings": 8}},
    ),
    "gpt_oss-plain-rotary": (
        transformers.GptOssConfig,
        {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3,
         "head_dim": 8,
         "intermediate_size": 16, "num_local_experts": 3, "num_experts_per_tok": 3,
         "max_position_embeddings": 64, "attention_bias": False, "swiglu_limit": 1.0,
         "layer_types": ["full_attention", "full_attention"], "rope_parameters": {"rope_type": "default",
         "rope_theta": 1000.0}},
    ),
}  # fmt: skip


@pytest.fixture(params=list(CASES))
def stock(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    """A stock model with every weight random, biases and norms too, and its saved folder with a tokenizer."""
    return make_stock(request.param, tmp_path)


@pytest.fixture
def cases() -> dict[str, tuple[type, dict[str, Any]]]:
    return CASES


@pytest.fixture
def make() -> Callable[[str, Path], tuple[Any, Path]]:
    return make_stock


def make_stock(case: str, folder: Path) -> tuple[Any, Path]:
    kind, fields = CASES[case]
    tokenizer = train_tokenizer(
        [textwrap.__doc__ or "", Path(textwrap.__file__).read_text("utf-8")], TokenizerConfig(), 300
    )
    ends = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(
        kind(vocab_size=300, **ends, **fields), dtype=torch.float32
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    model.eval().save_pretrained(folder)
    tokenizer.save(folder)
    return model, folder
