"""Shards to batches: shuffled windows for training, every byte once for validation."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from newleaf.data.data_config import DataConfig
from newleaf.data.permutation import permutation_index
from newleaf.data.token_shards import Shard
from newleaf.data.windows import NO_TARGET, Ints, windows
from newleaf.errors import InputError


@dataclass(frozen=True)
class Batch:
    """Inputs and what follows them: `ids` int64 [B, T]; `targets` int64 [B, T], -100 where there is none;
    `documents` int32 [B, T], the number of each position's document within its window, or None unless
    `data.document_mask` asks for it."""

    ids: torch.Tensor
    targets: torch.Tensor
    documents: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """B."""
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Targets that count."""
        return int((self.targets >= 0).sum())

    @property
    def counts(self) -> tuple[int]:
        """What the sum of the losses is divided by."""
        return (self.tokens,)

    def part(self, start: int, stop: int, device: torch.device) -> "Batch":
        """Some of the rows, on the device."""
        documents = self.documents[start:stop].to(device) if self.documents is not None else None
        return Batch(self.ids[start:stop].to(device), self.targets[start:stop].to(device), documents)


class TrainBatches:
    """Shuffled windows without replacement; `batch(step)` follows from (shard, seed, step) alone, so a run
    resumes anywhere.

    Every epoch visits each of its windows once, in an order of its own, and in the packed layout cuts the
    stream at a phase of its own; the fewer than 2T tokens that an epoch leaves at the stream's two ends are
    others each time.

    `share` = (k, n) gives the k-th of n equal parts of each batch, from 0: what the batches hold does not
    depend on n.
    """

    def __init__(
        self,
        shard: Shard,
        context_length: int,
        batch_size: int,
        seed: int,
        config: DataConfig,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Raises InputError when the text is shorter than one window, or the batch cannot be shared
        equally."""
        _check_batch_size(batch_size)
        self._windows = windows(shard, context_length, config, every_byte=False)
        self._with_documents = config.document_mask
        self._batch_size = batch_size
        self._seed = seed
        part, parts = share
        if batch_size % parts:
            raise InputError(
                f"train.batch_size: {batch_size} windows cannot be shared by {parts} processes equally; "
                f"choose a multiple"
            )
        self._own = np.arange(batch_size, dtype=np.int64)[
            part * batch_size // parts : (part + 1) * batch_size // parts
        ]

    @property
    def rows_per_epoch(self) -> int:
        return self._windows.count

    def epoch(self, step: int) -> int:
        """The epoch in which the first window of a step lies, from 0."""
        return step * self._batch_size // self._windows.count

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0, or this share of it; its windows may belong to two epochs."""
        positions = step * self._batch_size + self._own
        epochs, places = np.divmod(positions, self._windows.count)
        parts = [self._part(int(epoch), places[epochs == epoch]) for epoch in np.unique(epochs)]
        ids, targets, documents = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return _batch(ids, targets, documents, self._with_documents)

    def widest(self) -> Batch:
        """All windows are equally long."""
        return self.batch(0)

    def _part(self, epoch: int, places: Ints) -> tuple[Ints, Ints, Ints]:
        order_seed = int.from_bytes(f"{self._seed} {epoch}".encode(), "little")
        numbers = permutation_index(places, self._windows.count, order_seed)
        return self._windows.rows(numbers, self._windows.phase(self._seed, epoch))


def validation_batches(
    shard: Shard, context_length: int, batch_size: int, config: DataConfig, limit_windows: int | None = None
) -> Iterator[Batch]:
    """Every byte of the text once, in order: window k reads tokens kT … kT+T-1 and predicts the next T; the
    first is predicted from BOS.

    Targets that are separators are -100, as they stand for no byte, and so is the padding of the last window.
    In the document layout each document starts with its BOS and is cut at stride T. `limit_windows` takes
    that many windows, evenly spaced, for a cheap estimate: `token_byte_lengths` tells how many bytes its
    targets cover. All batches have one shape, the last one filled up with windows without targets, unless
    there are fewer windows than `batch_size`.
    """
    _check_batch_size(batch_size)
    every = windows(shard, context_length, config, every_byte=True)
    numbers = np.arange(every.count, dtype=np.int64)
    if limit_windows is not None and limit_windows < every.count:
        numbers = np.linspace(0, every.count - 1, max(1, limit_windows)).round().astype(np.int64)
    for start in range(0, len(numbers), batch_size):
        ids, targets, documents = every.rows(numbers[start : start + batch_size])
        missing = batch_size - len(ids) if start else 0
        if missing:
            ids = np.pad(ids, ((0, missing), (0, 0)), constant_values=shard.pad_id)
            targets = np.pad(targets, ((0, missing), (0, 0)), constant_values=NO_TARGET)
            documents = np.pad(documents, ((0, missing), (0, 0)))
        yield _batch(ids, targets, documents, config.document_mask)


def count_windows(shard: Shard, context_length: int, config: DataConfig) -> int:
    """How many windows `validation_batches` goes through without a limit."""
    return windows(shard, context_length, config, every_byte=True).count


def _batch(ids: Ints, targets: Ints, documents: Ints, with_documents: bool) -> Batch:
    numbers = torch.from_numpy(documents.astype(np.int32)) if with_documents else None
    return Batch(
        torch.from_numpy(np.ascontiguousarray(ids)), torch.from_numpy(np.ascontiguousarray(targets)), numbers
    )


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size} is not positive")
