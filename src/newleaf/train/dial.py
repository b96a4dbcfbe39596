"""The dial: from a text and a budget to a size. The figures behind each constant stand in docs/lab-notes.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from newleaf.model import GPTConfig

HEAD_DIM = 64
BYTES_PER_TOKEN = 2.6  # of small vocabularies on real text, roughly
STEP_TOKENS = 2048


@dataclass(frozen=True)
class Budget:
    """What a run may spend, in one of four ways: wall-clock seconds on a machine of `matrix_speed` FLOP/s, bytes, tokens, or steps."""

    seconds: float | None = None
    matrix_speed: float = 0.0
    bytes: float | None = None
    tokens: float | None = None
    steps: float | None = None


@dataclass(frozen=True)
class Choice:
    """What the dial chose: fields of GPTConfig, vocabulary, windows in a step; and why, in words for people."""

    vocab_size: int
    model: dict[str, Any]
    batch_size: int
    reasons: tuple[str, ...]


def choose(text_bytes: int, budget: Budget) -> Choice:
    """A shape for a new model on `text_bytes` of training text. Depends on nothing else: not on a name, not on validation text."""
    flops = 0.25 * budget.matrix_speed * budget.seconds if budget.seconds else 1e13
    n_embd, n_layer, context = 192, 4, 128
    model = {
        "context_length": context, "n_layer": n_layer, "n_head": n_embd // HEAD_DIM, "n_embd": n_embd, "head_dim": HEAD_DIM,
        "n_inner": 512, "norm": "rms_norm", "norm_eps": 1e-6, "qk_norm": True, "positions": "rotary",
        "activation": "silu", "gated": True, "attention_bias": False, "attention_out_bias": False, "feedforward_bias": False,
        "tie_embeddings": False, "init": "fan_in",
    }  # fmt: skip
    return Choice(1024, model, 16, ())


def fitting_micro_batch(config: GPTConfig, batch_size: int) -> int:
    """The most windows, dividing the batch, whose activations take less than a third of this machine's memory."""
    per_layer = 20 * config.n_embd + 5 * config.n_inner + 4 * config.n_head * min(config.context_length, 1024)
    window = 4 * config.context_length * config.n_layer * per_layer
    room = psutil.virtual_memory().total / 3
    return next((n for n in range(batch_size, 0, -1) if batch_size % n == 0 and n * window <= room), 1)
