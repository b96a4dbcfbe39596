"""What a network has read of one text, kept so that the next text that begins the same is read from where they part."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from newleaf.generate.constraints import Grammars
from newleaf.generate.options import SamplingConfig
from newleaf.generate.runner import PlainRunner, fitting
from newleaf.generate.samples import Piece, run, start
from newleaf.model import GPT
from newleaf.text.tokenizer import Tokenizer


class Memory:
    """A runner for one text at a time that remembers the last one. It stays right wherever reading or writing is broken off.

    Nothing else may use `runner` meanwhile.
    """

    def __init__(self, runner: PlainRunner) -> None:
        self.runner = runner
        self.config, self.max_length = runner.config, runner.max_length
        self._ids: list[int] = []  # what is certainly read, and while it is being read more is not noted

    @property
    def ids(self) -> list[int]:
        """The ids that were read."""
        return list(self._ids)

    @property
    def length(self) -> int:
        return self.runner.length

    def start(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Read one text, from where it differs from what was read; its last token is always read, since its logits are wanted."""
        (text,) = texts
        ids = fitting(text, self.max_length)
        shared = 0
        while shared < min(len(self._ids), len(ids) - 1) and self._ids[shared] == ids[shared]:
            shared += 1
        del self._ids[shared:]
        logits = self.runner.resume(shared, ids[shared:]) if shared else self.runner.start([ids])
        self._ids = list(ids)
        return logits

    def advance(self, tokens: Sequence[int], kept: Sequence[int]) -> Tensor:
        (token,) = tokens
        logits = self.runner.advance(tokens, kept)
        self._ids.append(token)
        return logits


class Remembering:
    """Writes with a network that has no program, one text at a time, and remembers the last one. See `Engine.answer`."""

    def __init__(self, network: GPT, tokenizer: Tokenizer, grammars: Grammars, cache: torch.dtype | None = None) -> None:
        self.tokenizer, self.grammars = tokenizer, grammars
        self.memory = Memory(PlainRunner(network, cache))

    def answer(
        self, prompt: Sequence[int], config: SamplingConfig, ends: Collection[int], shown: Mapping[int, str]
    ) -> Iterator[tuple[Piece, int]]:
        (sample,) = start(self.tokenizer, [prompt], config, self.grammars, 1, ends=ends, shown=shown)
        return ((piece, sample.row.written) for piece in run(self.memory, [sample], self.tokenizer))
