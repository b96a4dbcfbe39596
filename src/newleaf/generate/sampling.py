"""From a row of logits to the next token: the controls people know, in one fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from newleaf.errors import InputError


@dataclass(frozen=True)
class SamplingConfig:
    """How to write. Checked on construction (InputError naming the option).

    The order is that of stock transformers: repetition penalty, no_repeat_ngram_size, min_tokens, then temperature, top_k, top_p, min_p.
    A temperature of 0 is greedy: the likeliest token, after the penalties.
    """

    max_tokens: int = 100
    min_tokens: int = 0  # no end of text before this many
    temperature: float = 0.8
    top_k: int = 0  # keep the k likeliest; 0 keeps all
    top_p: float = 1.0  # keep the fewest tokens whose probabilities reach p (Holtzman et al. 2020)
    min_p: float = 0.0  # keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)
    repetition_penalty: float = 1.0  # divides positive logits of tokens already there, multiplies negative ones (Keskar et al. 2019)
    no_repeat_ngram_size: int = 0  # never write an n-gram twice
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise InputError("stop: every stop string must be text of at least one character")
        self._at_least("max_tokens", 1)
        for name in ("min_tokens", "temperature", "top_k", "no_repeat_ngram_size"):
            self._at_least(name, 0)
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p: must be above 0 and at most 1, not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p: must be between 0 and 1, not {self.min_p}")
        if not self.repetition_penalty > 0:
            raise InputError(f"repetition_penalty: must be above 0, not {self.repetition_penalty}")

    def _at_least(self, name: str, least: int) -> None:
        if not getattr(self, name) >= least:  # written so that NaN fails too
            raise InputError(f"{name}: must be at least {least}, not {getattr(self, name)}")


def penalize(logits: Tensor, history: Tensor, config: SamplingConfig) -> Tensor:
    """Repetition controls on one row: logits [V] and the ids so far [T] → [V]."""
    if config.repetition_penalty != 1.0:
        seen = logits[history]
        seen = torch.where(seen > 0, seen / config.repetition_penalty, seen * config.repetition_penalty)
        logits = logits.scatter(0, history, seen)
    size = config.no_repeat_ngram_size
    if size and history.numel() >= size:
        grams = history.unfold(0, size, 1)
        repeats = (grams[:, :-1] == history[history.numel() - size + 1 :]).all(1)
        logits = logits.index_fill(0, grams[repeats, -1], float("-inf"))
    return logits


def probabilities(logits: Tensor, config: SamplingConfig) -> Tensor:
    """Temperature and truncation: logits [B, V] → probabilities [B, V] in fp32; temperature must be above 0."""
    scaled = logits.float() / config.temperature
    if 0 < config.top_k < scaled.shape[-1]:
        least = scaled.topk(config.top_k).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    if config.top_p < 1:
        # Ascending: drop the tail whose whole probability is at most 1 − p; the likeliest always stays.
        ordered, order = scaled.sort(dim=-1)
        tail = ordered.softmax(-1).cumsum(-1) <= 1 - config.top_p
        tail[:, -1] = False
        scaled = scaled.masked_fill(tail.scatter(1, order, tail), float("-inf"))
    chances = scaled.softmax(-1)
    if config.min_p > 0:
        chances = chances.where(chances >= config.min_p * chances.amax(-1, keepdim=True), 0)
        chances = chances / chances.sum(-1, keepdim=True)
    return chances


def choose(logits: Tensor, histories: list[Tensor], config: SamplingConfig, generators: list[torch.Generator]) -> Tensor:
    """The next token of each row: logits [B, V] → ids [B]. Each row draws from its own generator, whatever else is in the batch."""
    if config.repetition_penalty != 1.0 or config.no_repeat_ngram_size:
        logits = torch.stack([penalize(row, history, config) for row, history in zip(logits, histories, strict=True)])
    if config.temperature == 0:
        return logits.argmax(-1)
    chances = probabilities(logits, config)
    return torch.stack([torch.multinomial(row, 1, generator=g).squeeze(0) for row, g in zip(chances, generators, strict=True)])
