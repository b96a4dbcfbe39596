"""Classifier-free guidance: away from what the network would write after another prompt (Sanchez et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from newleaf.generate.runner import Runner


def guide(logits: Tensor, negative: Tensor, scale: float) -> Tensor:
    """log p⁻ + scale · (log p − log p⁻) for logits [R, V] after the prompts and after the negative ones."""
    wanted, unwanted = logits.log_softmax(-1), negative.log_softmax(-1)
    return unwanted + scale * (wanted - unwanted)


class GuidedRunner:
    """A runner whose logits are guided: a second one reads the negative prompt where the first reads the prompt, and then the same tokens.

    `prompt` is the number of tokens at a text's beginning that the negative prompt stands in for.
    """

    def __init__(self, runner: Runner, second: Runner, negative: Sequence[int], prompt: int, scale: float) -> None:
        self.runner, self.second, self.scale = runner, second, scale
        self.config, self.max_length = runner.config, runner.max_length
        self.negative, self.prompt = list(negative), prompt

    @property
    def length(self) -> int:
        return max(self.runner.length, self.second.length)

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        others = [self.negative + list(text[self.prompt :]) for text in texts]
        return guide(self.runner.start(texts), self.second.start(others), self.scale)

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        return guide(self.runner.advance(tokens, kept), self.second.advance(tokens, kept), self.scale)
