"""What a network that trains on text is asked now and then: its loss on the validation text, and a few words
for each prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from newleaf.data.batches import Batch, count_windows, validation_batches
from newleaf.data.token_shards import token_byte_lengths
from newleaf.data.windows import NO_TARGET
from newleaf.generate.backend.executor import ModuleExecutor
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.measure.bits_per_byte import TextLoss, text_loss
from newleaf.model import GPT
from newleaf.recipe import build
from newleaf.train.distributed.process_group import Ranks
from newleaf.train.objective.objective import SampledText, ValidationMetrics
from newleaf.train.pretraining.prepare_pretraining import PreparedRun

EVAL_TOKENS = 8192  # in one batch of a validation


class TextEvaluator:
    """Asks `network`, which is left as it was.

    `check_stop` is called between batches and between tokens, and ends the asking by raising.

    Several processes share a validation, and hear the same of it; all of them write the same sample.
    """

    reports = False

    def __init__(
        self, prepared: PreparedRun, network: GPT, check_stop: Callable[[], None], ranks: Ranks
    ) -> None:
        self.prepared, self.network, self.check_stop, self.ranks = prepared, network, check_stop, ranks
        self.byte_lengths = torch.from_numpy(token_byte_lengths(prepared.tokenizer)).long()
        self.all_rows = count_windows(prepared.validation, prepared.window, prepared.config.data)
        train = prepared.config.train
        self.prompts: Sequence[str] = train.prompts
        # Estimates follow the clock, which is another one in each process, and all must run the network
        # together.
        options = {"max_tokens": 100, "seed": train.seed, "speculation": "off"} | train.sample
        self.sampling = build(SamplingConfig, options, "train.sample.")

    def validate(self, rows: int | None, to_the_end: bool = False) -> ValidationMetrics:
        """The loss over this many windows, evenly spaced, or all of them.

        `to_the_end` does not stop on the way.
        """
        length, data = self.prepared.window, self.prepared.config.data
        count = min(rows or self.all_rows, self.all_rows)
        at_once = max(1, EVAL_TOKENS // length)
        if self.ranks.size > 1:
            at_once = min(at_once, -(-count // self.ranks.size))
        batches = self._own(
            validation_batches(self.prepared.validation, length, at_once, data, rows), -(-count // at_once)
        )
        found = text_loss(
            self.network, batches if to_the_end else self._checking_stop(batches), self.byte_lengths
        )
        nats, tokens, size = self.ranks.sum(found.nats, found.tokens, found.bytes)
        whole = TextLoss(nats, int(tokens), int(size))
        return {"val_loss": whole.per_token, "val_bits_per_byte": whole.bits_per_byte}

    def report(self, folder: Path, rows: int) -> dict[str, Any]:
        """A text has no more to say than its loss."""
        return {}

    def prompts_at(self, check: int) -> Sequence[str]:
        """The same each time, so that samples can be compared."""
        return self.prompts

    def sample(self, prompt: str, seconds: float) -> SampledText:
        """How the network goes on with a prompt; what it has after so many seconds, should it not be done."""
        begin, text = self.ranks.clock(), ""
        # kernels that must be compiled first would take a timed run's time
        slots = ModuleExecutor(self.network, 1)
        for piece in Engine(self.network, self.prepared.tokenizer, executor=slots).write(
            prompt, self.sampling
        ):
            self.check_stop()
            text += piece.text
            if self.ranks.from_rank_zero(self.ranks.clock() - begin > seconds):
                return SampledText(text, cut=True)
        return SampledText(text)

    def _own(self, batches: Iterator[Batch], count: int) -> Iterator[Batch]:
        """Every n-th batch; whoever has one less looks at its last once more, without targets, so that all
        are called as often."""
        rank, size = self.ranks.rank, self.ranks.size
        last: Batch | None = None
        for number, batch in enumerate(batches):
            if number % size == rank:
                yield batch
            last = batch
        if last is not None and 0 < count % size <= rank:
            yield dataclasses.replace(last, targets=torch.full_like(last.targets, NO_TARGET))

    def _checking_stop(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.check_stop()
            yield batch
