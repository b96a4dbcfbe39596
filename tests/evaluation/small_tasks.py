"""Rows, sentences and random models that tests of evaluation are made of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from newleaf.api import Model
from newleaf.model import GPT, GPTConfig
from newleaf.model.classifier import Classifier
from newleaf.storage.classifier_folder import Label, Shape, save_classifier
from newleaf.text.tokenizer import Tokenizer
from newleaf.tune.labels.label_tokens import with_label_tokens
from newleaf.tune.labels.text_classifier import LabelModel


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


class Sentences:
    """Sentences drawn from a text's own words, some with what tasks have to mind: brackets, double spaces,
    numbers, other letters."""

    def __init__(self, text: str, seed: int) -> None:
        self.words, self.random = [word for word in text.split() if word.isalpha()], random.Random(seed)

    def __call__(self, least: int = 3, most: int = 12) -> str:
        count = self.random.randint(least, most)
        words = [self.random.choice(self.words) for _ in range(count)]
        words.insert(
            self.random.randrange(count),
            self.random.choice(["42", "naïve", "[step]", "[title]", "1,000", "the"]),
        )
        return " ".join(words).capitalize() + self.random.choice([".", "  again.", " "])


def tiny_model(tokenizer: Any, seed: int = 1, context: int = 2048) -> Model:
    """A random GPT-2 of two layers whose opinions are strong enough to differ."""
    torch.manual_seed(seed)
    return Model(
        GPT(GPTConfig(tokenizer.vocab_size, context, 2, 4, 32, init_std=0.3)).eval(), tokenizer, "gpt2"
    )


def word_tokenizer() -> Tokenizer:
    """A tokenizer of a few words that knows nothing else."""
    import tokenizers

    words = ["[UNK]", "<s>", "abc", "def", "Question", "Answer", ":", "."]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return Tokenizer(backend, bos_id=1, eos_id=1)


LABELS = ("bad", "fine", "good")


def tiny_classifier(
    tokenizer: Any,
    labels: tuple[Label, ...] = LABELS,
    seed: int = 1,
    shape: Shape = "classify",
    several: bool = False,
) -> Model:
    """Random labels for texts."""
    words, head = with_label_tokens(tokenizer, shape, labels, several, 64)
    torch.manual_seed(seed)
    shape_of: dict[str, Any] = {
        "n_layer": 1,
        "n_embd": 32,
        "n_head": 2,
        "n_kv_head": 2,
        "head_dim": 16,
        "n_inner": 64,
    }
    body = GPT(GPTConfig(vocab_size=words.vocab_size, context_length=64, **shape_of))
    network = Classifier(body, head.outputs)
    torch.nn.init.normal_(network.score.weight, std=2.0)
    return Model(body, words, "qwen3", labels=LabelModel(network.eval(), words, head))


def save_tiny_classifier(model: Model, folder: Path) -> None:
    assert model.labels is not None
    network = model.labels.network
    save_classifier(
        folder, network.config, network.state_dict(), model.tokenizer, model.labels.head, version="test"
    )
