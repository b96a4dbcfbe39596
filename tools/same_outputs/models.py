"""Small random models of every family, written as stock transformers saves them; weights come from a
generator of their own."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds

VOCABULARY, CONTEXT = 512, 256
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

# Of each family: the class of its configuration, and the names of its fields for width, layers, heads,
# context.
GPT_STYLE = ("n_embd", "n_layer", "n_head", "n_positions")
NEO_STYLE = ("hidden_size", "num_layers", "num_heads", "max_position_embeddings")
LLAMA_STYLE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
LOCAL = {"window_size": 16, "attention_types": [[["global", "local"], 1]]}
YARN = {
    "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "truncate": False, "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "gpt1": ("OpenAIGPTConfig", GPT_STYLE, {}),
    "gpt2": ("GPT2Config", GPT_STYLE, {}),
    "gpt3": ("GPTNeoConfig", NEO_STYLE, LOCAL | {"newleaf": {"family": "gpt3"}}),
    "gpt_neo": ("GPTNeoConfig", NEO_STYLE, LOCAL),
    "gptj": ("GPTJConfig", GPT_STYLE, {"rotary_dim": 8}),
    "gpt_neox": ("GPTNeoXConfig", LLAMA_STYLE, {}),
    "llama": ("LlamaConfig", LLAMA_STYLE, {"num_key_value_heads": 1}),
    "qwen3": ("Qwen3Config", LLAMA_STYLE, {"num_key_value_heads": 1}),
    "gpt_oss": (
        "GptOssConfig", LLAMA_STYLE,
        {"num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
        "rope_parameters": YARN},
    ),
}  # fmt: skip
# Width, layers, heads, and the width of a feed-forward layer where the configuration has no default for it.
SIZES = {"small": (64, 2, 2, 96), "large": (320, 4, 5, 1280)}


def make_model(folder: Path, family: str, size: str = "small", dtype: torch.dtype = torch.float32) -> None:
    """A model folder with ChatML's template. "large" has more than five million weights, enough for the
    compiled way to write."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind, (width, layers, heads, context), more = FAMILIES[family]
    shape = dict(zip((width, layers, heads, context), (*SIZES[size][:3], CONTEXT), strict=True))
    if context == "max_position_embeddings" and layers == "num_hidden_layers":
        shape |= {"intermediate_size": SIZES[size][3], "head_dim": SIZES[size][0] // SIZES[size][2]}
    if layers == "num_layers":
        more = more | {"attention_types": [[["global", "local"], SIZES[size][1] // 2]]}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = getattr(transformers, kind)(vocab_size=VOCABULARY, **ends, **(shape | more))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fill(model)
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder)


def fill(model: torch.nn.Module, seed: int = 7) -> None:
    """Random weights that give neither flat nor certain predictions: vectors near 1 for norms and near 0 for
    biases, matrices as large as keeps the size of what they multiply. Nothing of what was there stays, since
    stock classes leave some of it as the memory was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(float(name.endswith("weight")) + 0.1 * noise)
            else:
                weight.copy_(noise * 1.2 / weight.shape[-1] ** 0.5)


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE, learned from a text that every Python has, with ChatML's tokens and template."""
    backend = tokenizers.Tokenizer(kinds.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    learning = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator([Path(textwrap.__file__).read_text("utf-8")], learning)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL[2],
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": SPECIAL[0]}), "utf-8")
