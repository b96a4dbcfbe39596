"""Small models and conversations for the tests of chat, preference and distil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from chat_folders import make_folder

from newleaf.api import Model
from newleaf.model import GPT, GPTConfig
from newleaf.text.tokenizer import Tokenizer

WORDS = {
    "one": "eins",
    "two": "zwei",
    "three": "drei",
    "four": "vier",
    "five": "fünf",
    "six": "sechs",
    "seven": "sieben",
    "eight": "acht",
}
FAST = {"threads": 1, "precision": "fp32", "batch_size": 4, "micro_batch_size": 4}


def base_model(folder: Path, template: bool = False, **changes: Any) -> Path:
    """A model folder with random weights, in the layout of GPT-2; with ChatML's template or without one."""
    torch.manual_seed(3)
    names = make_folder(folder.with_name(f"{folder.name}-tokenizer"), "chatml")
    if not template:
        config = json.loads((names / "tokenizer_config.json").read_text("utf-8"))
        config.pop("chat_template", None)
        (names / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        (names / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = Tokenizer.load(names)
    shape: dict[str, Any] = {"context_length": 128, "n_layer": 1, "n_head": 2, "n_embd": 64} | changes
    Model(GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape)), tokenizer, "gpt2").save(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def talks(path: Path, count: int = 48) -> Path:
    """Words to translate, a few in each conversation."""
    words, rows = list(WORDS), []
    for number in range(count):
        messages = []
        for turn in range(1 + number % 3):
            word = words[(number * 3 + turn) % len(words)]
            messages += [
                {"role": "user", "content": f"say {word}"},
                {"role": "assistant", "content": WORDS[word]},
            ]
        rows.append({"messages": messages})
    return write_rows(path, rows)


def preferences(path: Path, count: int = 24) -> Path:
    """The right translation and a wrong one."""
    words = list(WORDS)
    rows = []
    for number in range(count):
        word, other = words[number % len(words)], words[(number + 1 + number // 8) % len(words)]
        rows.append({"prompt": f"say {word}", "chosen": WORDS[word], "rejected": WORDS[other] + "!"})
    return write_rows(path, rows)
