"""A network's slots, each with one text's keys and values: parts of several texts go in at once, and logits
come out where they are wanted.

Two kinds, alike from outside: `LoweredExecutor` for a lowered program, `ModuleExecutor` for the network
itself; generate/backend/lazy_lowering.py takes the better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from newleaf.generate.backend.runner import MAX_ROWS, LoweredRunner, evaluating
from newleaf.generate.kv.paged_cache import PagedCache
from newleaf.generate.kv.tensor_pages import RaggedBatch, Span, TensorPageStorage
from newleaf.model import GPT

BatchRow = tuple[int, int, int]  # token, position, slot
MIN_PREFILL_TOKENS = 8  # tokens of a prompt that are not worth PyTorch's matrix products
MAX_BATCH_TOKENS = 4096  # tokens, with what fills rows up, that go through the network together


@dataclass(frozen=True)
class TokenChunk:
    """The next tokens of one text: they come after the `start` that the slot holds. Logits are wanted
    after the last `wanted` of them."""

    slot: int
    start: int
    ids: Sequence[int]
    wanted: int = 0


class Executor(Protocol):
    """What the engine needs of a network."""

    @property
    def count(self) -> int:
        """How many slots there are."""

    @property
    def max_length(self) -> int:
        """Tokens of a text."""

    @property
    def rows(self) -> int:
        """Tokens that a round takes without waste."""

    @property
    def batch_invariant(self) -> bool:
        """Whether logits are the same, bit for bit, however texts are cut into parts and whatever else is in
        the round."""

    def run(self, parts: Sequence[TokenChunk]) -> Tensor:
        """Logits fp32 [sum of wanted, V], in the order of the parts; the next call may overwrite them."""

    def need(self, length: int) -> int:
        """Units of memory that a text of so many tokens takes."""

    @property
    def memory(self) -> float:
        """How many of these units there are."""

    def set_adapter(self, slot: int, adapter: int) -> None:
        """An empty slot is to be for this one of the adapters; 0 is the network without them."""

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        """Let an empty slot begin with what others have read of the same text; returns how many tokens that
        is."""

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        """The slot has read these tokens, and others may borrow them."""

    def fork(self, source: int, target: int, length: int) -> None:
        """Let an empty slot hold the first `length` tokens of another."""

    def release(self, slot: int) -> None:
        """The text has ended."""

    def add(self, count: int) -> None:
        """More slots."""


class LoweredExecutor:
    """Slots of a lowered program. `deterministic` keeps prompts of unpacked weights away from PyTorch's
    matrix products too, whose rounding depends on how many tokens they take."""

    def __init__(self, runner: LoweredRunner, deterministic: bool = False) -> None:
        self.runner, self.max_length = runner, runner.max_length
        self.count = runner.pages.slots
        self.by_products = runner.reads_by_products and not deterministic
        self.batch_invariant = not self.by_products
        self.rows = 4 * MAX_ROWS if self.by_products else MAX_ROWS

    def run(self, parts: Sequence[TokenChunk]) -> Tensor:
        """The wanted rows come first, so that the head runs for those alone."""
        wanted: list[BatchRow] = []
        others: list[BatchRow] = []
        for part in parts:
            ids, start, read = list(part.ids), part.start, len(part.ids) - part.wanted
            if self.by_products and read > MIN_PREFILL_TOKENS:
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

    def _step(self, rows: Sequence[BatchRow], wanted: int) -> Tensor:
        tokens, positions, slots = zip(*rows, strict=True)
        return self.runner.step(tokens, positions, slots, wanted)

    def need(self, length: int) -> int:
        return self.runner.pages.need(min(length, self.max_length))

    @property
    def memory(self) -> float:
        return math.inf if self.runner.pages.most is None else self.runner.pages.most

    def set_adapter(self, slot: int, adapter: int) -> None:
        self.runner.set_adapter(slot, adapter)

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        return self.runner.pages.borrow(slot, ids, kind=self.runner.adapter_of_slot.get(slot, 0))

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        self.runner.pages.publish(slot, ids, kind=self.runner.adapter_of_slot.get(slot, 0))

    def fork(self, source: int, target: int, length: int) -> None:
        self.runner.set_adapter(target, self.runner.adapter_of_slot.get(source, 0))
        self.runner.pages.fork(source, target, length)

    def release(self, slot: int) -> None:
        self.runner.pages.release(slot)

    def add(self, count: int) -> None:
        self.count += count
        self.runner.pages.add_slots(count)


class ModuleExecutor:
    """Slots of the network itself, run by PyTorch: the reference, and what runs where there is no program.
    `deterministic` takes each text through it alone, since rounding depends on what else is in a batch."""

    rows, batch_invariant = 256, False

    def __init__(
        self,
        network: GPT,
        count: int,
        limit: int | None = None,
        adapted: Sequence[GPT] = (),
        cache: torch.dtype | None = None,
        deterministic: bool = False,
    ) -> None:
        config = network.config
        self.network, self.count, self.max_length = network, count, config.context_length
        self.networks, self.adapter_of_slot = (network, *adapted), dict[int, int]()
        self.dtype, self.at_once = cache or network.dtype, 1 if deterministic else MAX_BATCH_TOKENS
        self.store = TensorPageStorage(config, self.dtype, network.device)
        self.pages = PagedCache(config, self.dtype, count, self.max_length, limit, self.store)

    def run(self, parts: Sequence[TokenChunk]) -> Tensor:
        """Texts of about the same number of new tokens go through the network together."""
        found: dict[int, Tensor] = {}
        for part in parts:
            self.pages.reserve(part.slot, part.start, part.start + len(part.ids))
        for batch in group_into_batches(
            parts, [self.adapter_of_slot.get(part.slot, 0) for part in parts], self.at_once
        ):
            found |= self._run(parts, batch)
        rows = [found[number] for number, part in enumerate(parts) if part.wanted]
        return torch.cat(rows) if rows else torch.zeros(0, self.network.config.vocab_size)

    def _run(self, parts: Sequence[TokenChunk], numbers: Sequence[int]) -> dict[int, Tensor]:
        """Logits of those of the parts with these numbers, by number."""
        own = [parts[number] for number in numbers]
        network = self.networks[self.adapter_of_slot.get(own[0].slot, 0)]
        batch = RaggedBatch(
            self.pages, self.store, [Span(part.slot, part.start, len(part.ids)) for part in own]
        )
        ids = torch.tensor(
            [[*part.ids, *[0] * (batch.width - len(part.ids))] for part in own], device=network.device
        )
        places = [
            row * batch.width + at
            for row, part in enumerate(own)
            for at in range(len(part.ids) - part.wanted, len(part.ids))
        ]
        wanted = torch.tensor(places, dtype=torch.long, device=network.device)
        with torch.no_grad(), evaluating(network):
            logits = network(ids, cache=batch, placement=batch, logits_to_keep=wanted).float().cpu()
        return dict(zip(numbers, logits.split([part.wanted for part in own]), strict=True))

    def need(self, length: int) -> int:
        return self.pages.need(min(length, self.max_length))

    @property
    def memory(self) -> float:
        return math.inf if self.pages.most is None else self.pages.most

    def set_adapter(self, slot: int, adapter: int) -> None:
        self.adapter_of_slot[slot] = adapter

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        return self.pages.borrow(slot, ids, kind=self.adapter_of_slot.get(slot, 0))

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        self.pages.publish(slot, ids, kind=self.adapter_of_slot.get(slot, 0))

    def fork(self, source: int, target: int, length: int) -> None:
        self.adapter_of_slot[target] = self.adapter_of_slot.get(source, 0)
        self.pages.fork(source, target, length)

    def release(self, slot: int) -> None:
        self.pages.release(slot)

    def add(self, count: int) -> None:
        self.count += count
        self.pages.add_slots(count)


def group_into_batches(parts: Sequence[TokenChunk], kinds: Sequence[int], at_once: int) -> list[list[int]]:
    """Numbers of the parts that go through the network together: of one kind, with tokens in at least half of
    a batch's places, of which there are no more than `at_once`, or one part's."""
    batches: list[list[int]] = []
    tokens = 0  # of the last batch
    for number in sorted(range(len(parts)), key=lambda number: (kinds[number], len(parts[number].ids))):
        count = len(parts[number].ids)
        places = (len(batches[-1]) + 1) * count if batches else 0  # they come in the order of their lengths
        if (
            batches
            and kinds[batches[-1][0]] == kinds[number]
            and places <= min(2 * (tokens + count), at_once)
        ):
            batches[-1].append(number)
            tokens += count
        else:
            batches.append([number])
            tokens = count
    return batches
