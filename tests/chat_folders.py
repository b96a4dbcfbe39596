"""Tokenizer folders as chat models have them: special and other added tokens, and a template in the manner of
each line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

TEMPLATES = Path(__file__).parent / "text" / "templates"
TEXT = [
    "What is the capital of France? The capital of France is Paris.\n\n",
    "user\nassistant\nsystem\nanalysis final commentary message",
    "2 < 3 > 1",
]
SPECIAL = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama3": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
    ],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "qwen3-coder": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "glm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "harmony": [
        "<|endoftext|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|channel|>",
        "<|call|>",
        "<|return|>",
    ],
    "mistral": ["<unk>", "<s>", "</s>"],
    "mistral-list": [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
    ],
    "mistral-named": [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
        "[ARGS]",
    ],
}
NAMED = {
    "qwen3": ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"],
    "qwen3-coder": ["<tool_call>", "</tool_call>"],
    "glm": ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
    "mistral": ["[INST]", "[/INST]"],
}
ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "qwen3": "<|im_end|>",
    "harmony": "<|return|>",
    "mistral": "</s>",
}
ENDS |= {"qwen3-coder": "<|im_end|>", "glm": "<|im_end|>", "mistral-list": "</s>", "mistral-named": "</s>"}
STARTS = {"llama3": "<|begin_of_text|>", "mistral": "<s>", "mistral-list": "<s>", "mistral-named": "<s>"}


def make_folder(folder: Path, kind: str, template: Any = None, ends: str | None = None) -> Path:
    """A tokenizer folder of this kind, its template in the place where models of the kind have it."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = sentencepiece() if kind == "mistral" else byte_level()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL[kind]])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in NAMED.get(kind, [])])
    backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ends or ENDS[kind]}
    if kind in STARTS:
        config["bos_token"] = STARTS[kind]
    source = template or (TEMPLATES / f"{kind}.jinja").read_text("utf-8")
    if kind == "qwen3" and template is None:
        (folder / "chat_template.jinja").write_text(source, "utf-8")
        config["chat_template"] = "{{ 'the file goes first' }}"
    else:
        config["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return folder


def byte_level() -> tokenizers.Tokenizer:
    """BPE over bytes, as GPT-2, Llama 3, Qwen and gpt-oss have it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return backend


def sentencepiece() -> tokenizers.Tokenizer:
    """BPE with byte fallback and a space before each text, as Llama 2 and Mistral have it."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted({letter for text in TEXT for letter in text.replace(" ", "▁")} | set("▁[]/<>|s_"))
    vocabulary = {
        token: n
        for n, token in enumerate(
            ["<unk>", "<s>", "</s>", *bytes_, *letters, "▁c", "ap", "▁i", "▁is", "in", "te"]
        )
    }
    merges = [("▁", "c"), ("a", "p"), ("▁", "i"), ("▁i", "s"), ("i", "n"), ("t", "e")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def make_chat_model(
    folder: Path, kind: str = "chatml", context: int = 4096, bias: dict[str, float] | None = None
) -> Path:
    """A model folder with random weights. `bias` is added to the logits of these tokens."""
    import torch

    from newleaf.api import Model
    from newleaf.model import GPT, GPTConfig
    from newleaf.text.tokenizer import Tokenizer

    torch.manual_seed(3)
    tokenizer = Tokenizer.load(make_folder(folder.with_name(f"{folder.name}-tokenizer"), kind))
    network = GPT(
        GPTConfig(tokenizer.vocab_size, context, 1, 2, 32, init_std=0.3, tie_embeddings=False, head_bias=True)
    )
    with torch.no_grad():
        for token, value in (bias or {}).items():
            network.head.bias[tokenizer.backend.token_to_id(token)] = value
    Model(network, tokenizer, "newleaf").save(folder)
    return folder
