"""The engines that a model keeps from call to call, so that programs are made once and what was read is
remembered."""

from __future__ import annotations

import torch

from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.engine.engine import Engine
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer

Weights = tuple[tuple[int, int], ...]  # where each weight lies, and how often it was changed


class Engines:
    """At most two engines for one network: one without a draft, and one with the draft that was asked for
    last. `cache` is the type of keys and values."""

    def __init__(self, network: GPT, tokenizer: Tokenizer, cache: torch.dtype | None = None) -> None:
        self.network, self.tokenizer, self.cache = network, tokenizer, cache
        self._kept: dict[GPT | None, tuple[Weights, Engine]] = {}

    def get(self, draft: GPT | None, grammars: GrammarCompiler) -> Engine:
        """The one with this draft, as long as no weight has changed."""
        networks = [each for each in (self.network, draft) if each is not None]
        weights = tuple(
            (weight.data_ptr(), weight._version) for each in networks for weight in each.parameters()
        )
        kept = self._kept.get(draft)
        if kept is None or kept[0] != weights:
            self._kept = {each: one for each, one in self._kept.items() if each is None and draft is not None}
            kept = self._kept[draft] = weights, self._open(draft, grammars)
        return kept[1]

    def _open(self, draft: GPT | None, grammars: GrammarCompiler) -> Engine:
        return Engine(self.network, self.tokenizer, grammars=grammars, draft=draft, cache=self.cache)
