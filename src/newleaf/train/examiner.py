"""What a network under training is asked now and then: its loss on the validation text, and a few words for each prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from newleaf.data.batches import Batch, count_windows, validation_batches
from newleaf.data.shards import token_byte_lengths
from newleaf.generate.sampling import SamplingConfig
from newleaf.generate.writer import write
from newleaf.measure.bits_per_byte import TextLoss, text_loss
from newleaf.model import GPT
from newleaf.train.prepare import Prepared
from newleaf.train.recipe import build

EVAL_TOKENS = 8192  # in one batch of a validation


class Examiner:
    """Asks `network`, which is left as it was. `heed` is called between batches and between tokens, and ends the asking by raising."""

    def __init__(self, prepared: Prepared, network: GPT, heed: Callable[[], None]) -> None:
        self.prepared, self.network, self.heed = prepared, network, heed
        self.byte_lengths = torch.from_numpy(token_byte_lengths(prepared.tokenizer)).long()
        self.all_windows = count_windows(prepared.validation, prepared.network.context_length, prepared.config.data)
        self.window_seconds = 0.0  # for each window of the last validation
        train = prepared.config.train
        self.sampling = build(SamplingConfig, {"max_tokens": 60, "seed": train.seed} | train.sample, "train.sample.")

    def validate(self, windows: int | None, to_the_end: bool = False) -> TextLoss:
        """The loss over this many windows, evenly spaced, or all of them. `to_the_end` heeds nothing on the way."""
        begin = time.monotonic()
        length, data = self.prepared.network.context_length, self.prepared.config.data
        batches = validation_batches(self.prepared.validation, length, max(1, EVAL_TOKENS // length), data, windows)
        found = text_loss(self.network, batches if to_the_end else self._heeding(batches), self.byte_lengths)
        self.window_seconds = (time.monotonic() - begin) / (windows or self.all_windows)
        return found

    def sample(self, prompt: str, seconds: float) -> str:
        """How the network goes on with a prompt; what it has after so many seconds, should it not be done."""
        begin, text = time.monotonic(), ""
        for piece in write(self.network, self.prepared.tokenizer, prompt, self.sampling):
            self.heed()
            text += piece.text
            if time.monotonic() - begin > seconds:
                break
        return text

    def _heeding(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.heed()
            yield batch
