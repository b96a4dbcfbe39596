"""From the network itself to its lowered program, once what is being written repays loading the kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.lowered_program import CannotLower
from newleaf.generate.backend.runner import LoweredRunner, is_packed, say_once
from newleaf.model import GPT

# seconds that the kernels take, about: once they are kept on the disk, and before
LOAD_SECONDS, COMPILE_SECONDS = 0.6, 30.0
KERNELS = Path(__file__).parents[1] / "kernels"
TYPICAL_TOKENS = 100  # tokens of a text
READ_SPEED = 20e9  # bytes of weights a second, about what a laptop's memory gives


class LazyLoweringExecutor:
    """Slots of the network itself that become those of its lowered program when writing has taken as long as
    loading the kernels would.

    So a short text never waits for kernels, and a long one, or many, takes at most twice the time of
    whichever is better (the rule for renting or buying skis). Texts that are being written are read again.
    `lower` makes the slots of the program; `clock` is in seconds.
    """

    def __init__(
        self,
        plain: ModuleExecutor,
        lower: Callable[[], LoweredExecutor],
        kept: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.slots: ModuleExecutor | LoweredExecutor = plain
        self._lower, self._clock = lower, clock
        # seconds of writing before the switch
        self._left = LOAD_SECONDS if (kept or kernels_cached)() else COMPILE_SECONDS
        self._tokens: dict[int, list[int]] = {}  # what each slot holds

    @property
    def count(self) -> int:
        return self.slots.count

    @property
    def max_length(self) -> int:
        return self.slots.max_length

    @property
    def rows(self) -> int:
        return self.slots.rows

    @property
    def batch_invariant(self) -> bool:
        return self.slots.batch_invariant

    @property
    def memory(self) -> float:
        return self.slots.memory

    def run(self, parts: Sequence[TokenChunk]) -> Tensor:
        if isinstance(self.slots, LoweredExecutor):
            return self.slots.run(parts)
        if self._left <= 0:
            self._switch()
            return self.slots.run(parts)
        began = self._clock()
        found = self.slots.run(parts)
        self._left -= self._clock() - began
        for part in parts:
            held = self._tokens.setdefault(part.slot, [])
            del held[part.start :]
            held += part.ids
        return found

    def _switch(self) -> None:
        plain = self.slots
        assert isinstance(plain, ModuleExecutor)
        self._left = float("inf")
        try:
            lowered = self._lower()
        except CannotLower as error:
            warn_not_lowered(error)
            return
        if plain.count > lowered.count:
            lowered.add(plain.count - lowered.count)
        for slot, ids in self._tokens.items():
            lowered.set_adapter(slot, plain.adapter_of_slot.get(slot, 0))
            start = lowered.borrow(slot, ids)
            if start < len(ids):
                lowered.run([TokenChunk(slot, start, ids[start:])])
            lowered.publish(slot, ids)
        self.slots = lowered
        self._tokens.clear()

    def need(self, length: int) -> int:
        return self.slots.need(length)

    def set_adapter(self, slot: int, adapter: int) -> None:
        self.slots.set_adapter(slot, adapter)

    def borrow(self, slot: int, ids: Sequence[int]) -> int:
        found = self.slots.borrow(slot, ids)
        self._tokens[slot] = list(ids[:found])
        return found

    def publish(self, slot: int, ids: Sequence[int]) -> None:
        self.slots.publish(slot, ids)

    def fork(self, source: int, target: int, length: int) -> None:
        self.slots.fork(source, target, length)
        self._tokens[target] = self._tokens.get(source, [])[:length]

    def release(self, slot: int) -> None:
        self.slots.release(slot)
        self._tokens.pop(slot, None)

    def add(self, count: int) -> None:
        self.slots.add(count)


def kernels_cached() -> bool:
    """Whether compiled kernels are cached beside their source, Numba's place where it may write there."""
    return any((KERNELS / "__pycache__").glob("interpreter.*.nbi"))


def open_executor(
    network: GPT,
    count: int,
    limit: int | None,
    deterministic: bool = False,
    adapted: Sequence[GPT] = (),
    cache: torch.dtype | None = None,
    lower_at_once: bool = False,
) -> Executor:
    """Slots to write with: the lowered program's, or the network's own where there is no program, saying why
    once. A network so small that a text would be written before the kernels are loaded begins without them,
    unless much will be written and `lower_at_once` says so.

    `adapted` are networks over the same weights, which slots may be for; `cache` is the type of keys and
    values, None for the network's own. `deterministic` logits are the same bit for bit however texts are cut
    into parts and whatever else is in the round.
    """
    plain = ModuleExecutor(network, count, limit, adapted, cache, deterministic)
    # FSDP2 gives it a class of its own; each process has only parts of the weights
    sharded = type(network) is not GPT
    if network.device.type != "cpu" or sharded:
        return plain

    def lower() -> LoweredExecutor:
        return LoweredExecutor(
            LoweredRunner(network, count, limit=limit, adapted=adapted, cache=cache), deterministic
        )

    if not (lower_at_once or deterministic or is_packed(network) or lowering_pays_at_once(plain)):
        return LazyLoweringExecutor(plain, lower)
    try:
        return lower()
    except CannotLower as error:
        warn_not_lowered(error)
        return plain


def warn_not_lowered(error: CannotLower) -> None:
    say_once(f"writing with PyTorch, which takes several times as long: {error}")


def lowering_pays_at_once(slots: ModuleExecutor) -> bool:
    """Whether a text of usual length takes the network itself longer than the kernels take to load, as the
    time for reading the weights so often says, or a pass over one token."""
    if TYPICAL_TOKENS * slots.network.weight_bytes() / READ_SPEED > LOAD_SECONDS:
        return True
    began = time.perf_counter()
    slots.run([TokenChunk(0, 0, [0], 1)])
    seconds = time.perf_counter() - began
    slots.release(0)
    return TYPICAL_TOKENS * seconds > LOAD_SECONDS
