"""Small bases to tune, and rows with something to learn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers

from newleaf.text.tokenizer import Tokenizer
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

SHAPES: dict[str, tuple[type, dict[str, Any]]] = {
    "gpt2": (transformers.GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}),
    "gpt1": (transformers.OpenAIGPTConfig, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}),
    "gpt_neo": (
        transformers.GPTNeoConfig,
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 48, "window_size": 7,
         "attention_types": [[["global", "local"], 1]]},
    ),
    "gptj": (transformers.GPTJConfig, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48,
    "rotary_dim": 4}),
    "gpt_neox": (
        transformers.GPTNeoXConfig,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 48},
    ),
    "llama": (
        transformers.LlamaConfig,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48,
         "max_position_embeddings": 48},
    ),
    "qwen3": (
        transformers.Qwen3Config,
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8,
         "intermediate_size": 48, "max_position_embeddings": 48},
    ),
}  # fmt: skip
GOOD, BAD = (
    ("a fine story", "great and warm", "we loved it", "bright and fine"),
    ("a dull story", "cold and poor", "we hated it", "grey and dull"),
)
TEXT = " ".join((*GOOD, *BAD, "the film was long , and the end came late ."))


def tokenizer() -> Tokenizer:
    """A small byte-level one."""
    return train_tokenizer([TEXT * 4], TokenizerConfig(kind="bpe", vocab_size=300))


def make_base(folder: Path, shape: str = "gpt2", **more: Any) -> Path:
    """A language model with random weights, as stock transformers writes it."""
    words = tokenizer()
    kind, values = SHAPES[shape]
    dropouts = dict.fromkeys(
        ("resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout", "embed_dropout", "attention_dropout"),
        0.0,
    )
    config = kind(
        vocab_size=words.vocab_size,
        bos_token_id=words.bos_id,
        eos_token_id=words.eos_id,
        **(dropouts | values | more),
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    words.save(folder)
    return folder


def opinions(count: int = 40) -> list[dict[str, Any]]:
    """Rows that two words tell apart."""
    return [
        {"text": f"{(GOOD, BAD)[n % 2][n // 2 % 4]} , {n // 8}", "label": ("good", "bad")[n % 2]}
        for n in range(count)
    ]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


OPTIONS: dict[str, Any] = {
    "steps": 6,
    "optimizer": {"learning_rate": 3e-3},
    "train": {"batch_size": 4, "precision": "fp32", "eval_every": 3},
    "label": {"baselines": False},
}
