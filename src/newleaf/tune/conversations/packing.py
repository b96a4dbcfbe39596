"""Examples side by side in windows of one length, each seen by itself alone: attention and positions begin
anew with every example."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cached_property
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from newleaf.data.batches import Batch
from newleaf.data.permutation import permutation_index
from newleaf.data.windows import NO_TARGET
from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.tune.conversations.example import Example

Ints = npt.NDArray[np.int64]
GRAIN = 16  # a window's length is a multiple of it, which the compiled attention asks for


def pack(sizes: Sequence[int], length: int, seed: int) -> list[list[int]]:
    """Numbers of the examples of each window.

    An example, in an order that `seed` names, goes where it leaves the least room (best fit).

    Every size must be at most `length`.
    """
    order = permutation_index(np.arange(len(sizes)), len(sizes), seed).tolist() if sizes else []
    windows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of a window and its number, sorted
    for number in order:
        place = bisect.bisect_left(room, (sizes[number], -1))
        if place == len(room):
            left, window = length, len(windows)
            windows.append([])
        else:
            left, window = room.pop(place)
        windows[window].append(number)
        bisect.insort(room, (left - sizes[number], window))
    return windows


class PackedExamples:
    """Examples packed into windows [T]; `rows` makes batches of them.

    A window of a single example needs no mask.
    """

    def __init__(
        self, examples: Sequence[Example], length: int, pad_id: int, seed: int, packed: bool = True
    ) -> None:
        """`length` positions at most; windows are no longer than the longest of them needs.

        Unpacked, each example has a window.
        """
        if not examples:
            raise InputError("no conversation has an answer to learn from")
        self.examples, self.pad_id = examples, pad_id
        sizes = [example.places for example in examples]
        self.windows = pack(sizes, length, seed) if packed else [[number] for number in range(len(examples))]
        longest = max(sum(sizes[number] for number in window) for window in self.windows)
        self.length = min(length, -(-longest // GRAIN) * GRAIN)

    def __len__(self) -> int:
        return len(self.windows)

    @cached_property
    def targets(self) -> int:
        """Tokens to learn, of all."""
        return int(sum(example.learned[1:].sum() for example in self.examples))

    @property
    def longest(self) -> int:
        """The window with the most positions."""
        return max(
            range(len(self)), key=lambda number: sum(self.examples[e].places for e in self.windows[number])
        )

    def rows(self, numbers: Sequence[int]) -> Batch:
        """These windows: ids, targets and documents [B, T].

        Documents None where no window has two examples.
        """
        chosen = [self.windows[number] for number in numbers]
        used = max(sum(self.examples[number].places for number in window) for window in chosen)
        length = min(self.length, -(-used // GRAIN) * GRAIN)
        ids = np.full((len(chosen), length), self.pad_id, dtype=np.int64)
        targets = np.full((len(chosen), length), NO_TARGET, dtype=np.int64)
        documents = np.zeros((len(chosen), length), dtype=np.int32)
        for row, window in enumerate(chosen):
            at = 0
            for count, number in enumerate(window):
                example = self.examples[number]
                part = slice(at, at := at + example.places)
                ids[row, part] = example.ids[:-1]
                targets[row, part] = np.where(example.learned[1:], example.ids[1:], NO_TARGET)
                documents[row, part] = count
            documents[row, at:] = len(window)  # padding is a document of its own
        alone = all(len(window) == 1 for window in chosen)
        return Batch(
            torch.from_numpy(ids), torch.from_numpy(targets), None if alone else torch.from_numpy(documents)
        )


B = TypeVar("B", covariant=True)


class Rows(Protocol[B]):
    """Rows that make batches; `longest` takes the most memory."""

    @property
    def longest(self) -> int: ...

    def __len__(self) -> int: ...

    def rows(self, numbers: Sequence[int]) -> B:
        """These rows as a batch."""


class ShuffledBatches(Generic[B]):
    """Shuffled rows; `batch(step)` follows from (rows, seed, step) alone. Every epoch visits each row once.

    `share` = (k, n) gives the k-th of n equal parts of each batch.
    """

    def __init__(self, rows: Rows[B], batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        part, parts = share
        if batch_size % parts:
            raise InputError(
                f"train.batch_size: {counted(batch_size, 'row')} cannot be shared by {parts} processes "
                f"equally; choose a multiple"
            )
        self._rows, self._size, self._seed = rows, batch_size, seed
        self._own = np.arange(batch_size, dtype=np.int64)[
            part * batch_size // parts : (part + 1) * batch_size // parts
        ]

    @property
    def rows_per_epoch(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> B:
        """The batch of a step, from 0, or this share of it; its rows may belong to two epochs."""
        return self._rows.rows(self.numbers(step))

    def widest(self) -> B:
        """A batch of the longest row."""
        return self._rows.rows([self._rows.longest] * len(self._own))

    def numbers(self, step: int) -> list[int]:
        """The rows of a step."""
        return shuffled(step * self._size + self._own, len(self._rows), self._seed)


def shuffled(positions: Ints, count: int, seed: int) -> list[int]:
    """Which of `count` rows stand at these positions of an endless order, shuffled anew each epoch."""
    epochs, places = np.divmod(positions, count)
    numbers = np.empty_like(places)
    for epoch in np.unique(epochs):
        order_seed = int.from_bytes(f"{seed} {int(epoch)}".encode(), "little")
        numbers[epochs == epoch] = permutation_index(places[epochs == epoch], count, order_seed)
    return [int(number) for number in numbers]
