"""Where windows lie: in the stream of documents, or inside each document."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from newleaf.data.data_config import DataConfig
from newleaf.data.token_shards import Shard
from newleaf.errors import InputError

Ints = npt.NDArray[np.int64]
NO_TARGET = -100


class Windows(Protocol):
    """Windows by number. `rows` gives inputs, targets and document numbers (zeros unless asked for), each
    int64 [windows, T]."""

    @property
    def count(self) -> int: ...

    def rows(self, numbers: Ints, phase: int = 0) -> tuple[Ints, Ints, Ints]: ...

    def phase(self, seed: int, epoch: int) -> int: ...


@dataclass(frozen=True)
class PackedWindows:
    """Window k reads tokens p+kT … p+kT+T-1 of the stream and predicts the next T, where p is the phase of
    the epoch.

    Training has as many windows as fit at every phase. Validation (`every_byte`) starts at 0 and has a last,
    padded window, so that each token is predicted once; the separators are no targets there, since they stand
    for no byte.
    """

    shard: Shard
    length: int
    every_byte: bool = False
    with_document_numbers: bool = False

    def __post_init__(self) -> None:
        if not self.every_byte and self.shard.n_tokens <= self.length:
            raise InputError(
                f"the text has {self.shard.n_tokens} tokens, too few for a window of {self.length} and the "
                f"token after it; give more text, "
                f"or windows of {max(1, self.shard.n_tokens - 1)} tokens or less (--model.context_length, "
                f"in fine-tuning --text.length)"
            )

    @property
    def count(self) -> int:
        targets = self.shard.n_tokens - 1
        if self.every_byte:
            return -(-targets // self.length)
        return max(1, (self.shard.n_tokens - self.length) // self.length)

    def phase(self, seed: int, epoch: int) -> int:
        """Each epoch cuts elsewhere, so that no token always stands at a window's start."""
        slack = min(self.length - 1, self.shard.n_tokens - 1 - self.count * self.length)
        digest = hashlib.blake2b(f"phase {seed} {epoch}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % (slack + 1)

    def rows(self, numbers: Ints, phase: int = 0) -> tuple[Ints, Ints, Ints]:
        places = (phase + numbers * self.length)[:, None] + np.arange(self.length + 1)
        inside = places < self.shard.n_tokens
        taken = self.shard.tokens[np.where(inside, places, 0)].astype(np.int64)
        taken[~inside] = self.shard.pad_id
        targets = np.where(inside[:, 1:], taken[:, 1:], NO_TARGET)
        if self.every_byte:
            # Told by place and not by id: a tokenizer with a bos or eos of its own may use that id in text.
            starts = self.shard.document_starts
            found = np.searchsorted(starts, places[:, 1:])
            targets[starts[np.minimum(found, len(starts) - 1)] == places[:, 1:]] = NO_TARGET
        return taken[:, :-1], targets, self._documents(places[:, :-1])

    def _documents(self, places: Ints) -> Ints:
        if not self.with_document_numbers:
            return np.zeros_like(places)
        numbers = np.searchsorted(self.shard.document_starts, places, side="right")
        return (numbers - numbers[:, :1]).astype(np.int64)


@dataclass(frozen=True)
class DocumentWindows:
    """Windows inside documents, each [BOS] tokens [EOS]: at 0, stride, 2 stride … until one reaches the
    document's end.

    Short ones are filled up with the pad token, which is no target. In validation (`every_byte`) the stride
    is T and EOS is no target, so that each byte counts once.
    """

    shard: Shard
    length: int
    stride: int
    every_byte: bool = False

    @property
    def count(self) -> int:
        return int(self._last_numbers[-1]) if len(self._last_numbers) else 0

    def phase(self, seed: int, epoch: int) -> int:
        return 0

    @cached_property
    def _lengths(self) -> Ints:
        """Tokens of each document with its separator, which are also its targets when EOS is one."""
        lengths: Ints = np.diff(self.shard.document_starts, append=self.shard.n_tokens)
        return lengths

    @cached_property
    def _last_numbers(self) -> Ints:
        """Windows up to and including each document's."""
        targets = self._lengths - 1 if self.every_byte else self._lengths
        rest = np.maximum(targets - self.length, 0)
        return np.cumsum(np.where(targets > 0, 1 + -(-rest // self.stride), 0))

    def rows(self, numbers: Ints, phase: int = 0) -> tuple[Ints, Ints, Ints]:
        documents = np.searchsorted(self._last_numbers, numbers, side="right")
        before = np.where(documents > 0, self._last_numbers[documents - 1], 0)
        places = ((numbers - before) * self.stride)[:, None] + np.arange(self.length + 1)
        lengths = self._lengths[documents][:, None]
        stream = np.minimum(self.shard.document_starts[documents][:, None] + places, self.shard.n_tokens - 1)
        taken = np.where(places < lengths, self.shard.tokens[stream].astype(np.int64), self.shard.pad_id)
        taken[places == lengths] = self.shard.eos_id
        last = lengths - 1 if self.every_byte else lengths
        targets = np.where(places[:, 1:] <= last, taken[:, 1:], NO_TARGET)
        # Padding counts as a document of its own: with a mask, nothing else looks at it.
        return taken[:, :-1], targets, (places[:, :-1] > lengths).astype(np.int64)


def windows(shard: Shard, length: int, config: DataConfig, every_byte: bool) -> Windows:
    """The windows that the layout asks for."""
    if length < 1:
        raise InputError(f"context_length: {length} is not positive")
    if config.layout == "packed":
        return PackedWindows(shard, length, every_byte, config.document_mask)
    stride = length if every_byte or config.stride is None else config.stride
    if stride > length:
        raise InputError(
            f"data.stride: {stride} is larger than context_length {length}, which would leave tokens out; "
            f"lower it"
        )
    return DocumentWindows(shard, length, stride, every_byte)
