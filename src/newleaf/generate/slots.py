"""A network's slots, each with one text's keys and values: parts of several texts go in at once, and logits come out where they are wanted.

Two kinds, alike from outside: `KernelSlots` for a lowered program, `NetworkSlots` for whatever has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from newleaf.generate.program import CannotLower
from newleaf.generate.runner import MAX_ROWS, WORTH_LOWERING, LoweredRunner, evaluating, say_once
from newleaf.model import GPT, KVCache

Row = tuple[int, int, int]  # token, position, slot
FEW = 8  # tokens of a prompt that are not worth PyTorch's matrix products


@dataclass(frozen=True)
class Part:
    """The next tokens of one text: they come after the `start` that the slot holds. Logits are wanted after the last `wanted` of them."""

    slot: int
    start: int
    ids: Sequence[int]
    wanted: int = 0


class Slots(Protocol):
    """What the engine needs of a network."""

    count: int  # slots
    max_length: int  # tokens of a text
    rows: int  # tokens that a round takes without waste
    steady: bool  # whether logits are the same, bit for bit, however texts are cut into parts and whatever else is in the round

    def run(self, parts: Sequence[Part]) -> Tensor:
        """Logits fp32 [sum of wanted, V], in the order of the parts; the next call may overwrite them."""

    def need(self, length: int) -> int:
        """Units of memory that a text of so many tokens takes."""

    @property
    def memory(self) -> float:
        """How many of these units there are."""

    def wear(self, slot: int, adapter: int) -> None:
        """An empty slot is to be for this one of the adapters; 0 is the network without them."""

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        """Let an empty slot begin with what others have read of the same text; returns how many tokens that is."""

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        """The slot has read these tokens, and others may borrow them."""

    def release(self, slot: int) -> None:
        """The text has ended."""


class KernelSlots:
    """Slots of a lowered program. `deterministic` keeps prompts of unpacked weights away from PyTorch's matrix products too, whose rounding
    depends on how many tokens they take."""

    def __init__(self, runner: LoweredRunner, deterministic: bool = False) -> None:
        self.runner, self.max_length = runner, runner.max_length
        self.count = runner.pages.slots
        self.by_products = runner.reads_by_products and not deterministic
        self.steady = not self.by_products
        self.rows = 4 * MAX_ROWS if self.by_products else MAX_ROWS

    def run(self, parts: Sequence[Part]) -> Tensor:
        """The wanted rows come first, so that the head runs for those alone."""
        wanted: list[Row] = []
        others: list[Row] = []
        for part in parts:
            ids, start, read = list(part.ids), part.start, len(part.ids) - part.wanted
            if self.by_products and read > FEW:
                self.runner.read_by_products(part.slot, ids[:read], start)
                ids, start, read = ids[read:], start + read, 0
            rows = [(token, start + at, part.slot) for at, token in enumerate(ids)]
            others += rows[:read]
            wanted += rows[read:]
        if wanted and len(wanted) + len(others) <= MAX_ROWS:
            return self._step(wanted + others, len(wanted))
        # Rows of one text must be read in order: first those that give no logits.
        for first in range(0, len(others), MAX_ROWS):
            self._step(others[first : first + MAX_ROWS], 0)
        parts_of = [wanted[first : first + MAX_ROWS] for first in range(0, len(wanted), MAX_ROWS)]
        found = [self._step(rows, len(rows)).clone() for rows in parts_of]
        return torch.cat(found) if found else torch.zeros(0, self.runner.config.vocab_size)

    def _step(self, rows: Sequence[Row], wanted: int) -> Tensor:
        tokens, positions, slots = zip(*rows, strict=True)
        return self.runner.step(tokens, positions, slots, wanted)

    def need(self, length: int) -> int:
        return self.runner.pages.need(min(length, self.max_length))

    @property
    def memory(self) -> float:
        return math.inf if self.runner.pages.most is None else self.runner.pages.most

    def wear(self, slot: int, adapter: int) -> None:
        self.runner.wear(slot, adapter)

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        return self.runner.pages.borrow(slot, ids, kind=self.runner.wearing.get(slot, 0))

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        self.runner.pages.publish(slot, ids, kind=self.runner.wearing.get(slot, 0))

    def release(self, slot: int) -> None:
        self.runner.pages.release(slot)


class NetworkSlots:
    """Slots of the network itself, each with a cache of its own that grows: the reference, and what runs where there is no program."""

    rows, steady = 256, False

    def __init__(
        self, network: GPT, count: int, limit: int | None = None, adapted: Sequence[GPT] = (), cache: torch.dtype | None = None
    ) -> None:
        self.network, self.count, self.max_length = network, count, network.config.context_length
        self.networks, self.wearing = (network, *adapted), dict[int, int]()
        self.dtype = cache or network.dtype
        each = KVCache(network.config, 1, 1, self.dtype).nbytes
        self._limit = math.inf if limit is None else max(1, limit // each)
        self._caches: dict[int, KVCache] = {}

    def run(self, parts: Sequence[Part]) -> Tensor:
        found = []
        for part in parts:
            network = self.networks[self.wearing.get(part.slot, 0)]
            with torch.no_grad(), evaluating(network):
                cache = self._room(part.slot, part.start, part.start + len(part.ids))
                hidden = network.hidden(torch.tensor([list(part.ids)], device=network.device), cache=cache)
                if part.wanted:
                    found.append(network.head(hidden[0, -part.wanted :]).float().cpu())
        return torch.cat(found) if found else torch.zeros(0, self.network.config.vocab_size)

    def _room(self, slot: int, start: int, end: int) -> KVCache:
        """The slot's cache with `start` tokens in it and room for `end`."""
        cache = self._caches.get(slot)
        if cache is None or end > cache.max_length:
            length = min(max(end, 2 * (cache.max_length if cache is not None else 64)), self.max_length)
            larger = KVCache(self.network.config, 1, length, self.dtype, self.network.device)
            if cache is not None:
                larger.take(cache, start)
            cache = self._caches[slot] = larger
        cache.length = start
        return cache

    def need(self, length: int) -> int:
        return min(2 * length, self.max_length)

    @property
    def memory(self) -> float:
        return self._limit

    def wear(self, slot: int, adapter: int) -> None:
        self.wearing[slot] = adapter

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        return 0

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        pass

    def release(self, slot: int) -> None:
        self._caches.pop(slot, None)


def open_slots(
    network: GPT, count: int, limit: int | None, deterministic: bool, adapted: Sequence[GPT] = (), cache: torch.dtype | None = None
) -> Slots:
    """The lowered program's where there is one and it is worth its start, and else the network's own, saying why once. `adapted` are
    networks over the same weights, which slots may be for; `cache` is the type of keys and values, None for the network's own."""
    if network.device.type != "cpu" or network.parameter_count() < WORTH_LOWERING:
        return NetworkSlots(network, count, limit, adapted, cache)
    try:
        return KernelSlots(LoweredRunner(network, count, limit=limit, adapted=adapted, cache=cache), deterministic)
    except CannotLower as error:
        say_once(f"writing with PyTorch, which takes several times as long: {error}")
        return NetworkSlots(network, count, limit, adapted, cache)
