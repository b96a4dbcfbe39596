"""The scheduler: decides which sequences run in the next step, and how many tokens of each.

Sequences wait in order of arrival, and get a slot when there is memory for their full length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import replace

from newleaf.generate.backend.executor import Executor, TokenChunk
from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.sampling.sampler import SamplerRow
from newleaf.generate.speculation.speculator import Speculator
from newleaf.generate.text.sequence import Grouped, Sequence

PREFILL_CHUNK = 64  # tokens of a prompt in a step, where steps must not depend on other sequences
MIN_PREFILL_ROWS = 8  # rows of a step for prefill, however many sequences decode


class Scheduler:
    """Sequences that wait, and those that have a slot.

    `fixed` reads prompts in equal chunks, so that rounding does not depend on other sequences.
    """

    def __init__(self, executor: Executor, fixed: bool, speculator: Speculator) -> None:
        self.executor, self.fixed, self.speculator = executor, fixed, speculator
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of admission
        self._free = list(range(executor.count))
        self._reserved = [0] * len(self._pools)

    def __contains__(self, sequence: Sequence) -> bool:
        """Whether it waits, or it or another sequence of its group has a slot."""
        there = sequence.group.sequences if sequence.group is not None else [sequence]
        return sequence in self.waiting or any(each.slot is not None for each in there)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """Free the slots of a sequence that ended or was cancelled, and of its group."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            return
        group = sequence.group
        for each in group.sequences if group is not None else [sequence]:
            self._free.append(self._free_slot(each))
        if group is not None:
            self._free += group.spare_slots
            group.members, group.spare_slots = [], []
        self._reserve(sequence, -1)

    def _free_slot(self, sequence: Sequence) -> int:
        """Take a sequence out of its slot; returns the slot."""
        assert sequence.slot is not None
        self._publish(sequence)
        self.speculator.release(sequence)
        self.executor.release(sequence.slot)
        self.running.remove(sequence)
        slot, sequence.slot = sequence.slot, None
        return slot

    def continue_group(self, group: Grouped, going: Several[tuple[int, SamplerRow]]) -> None:
        """The group's sequences after their next token: for each the number of its parent, and its row."""
        for number in set(range(len(group.members))) - {parent for parent, _ in going}:
            group.spare_slots += [self._free_slot(sequence) for sequence in group.members[number]]
        members: list[tuple[Sequence, ...]] = []
        for place, (parent, _) in enumerate(going):
            again = any(parent == earlier for earlier, _ in going[:place])
            members.append(
                tuple(self._fork(each, group) for each in group.members[parent])
                if again
                else group.members[parent]
            )
        for (own, *others), (_, row) in zip(members, going, strict=True):
            own.sample = replace(own.sample, row=row)
            for other in others:
                other.sample.row.take(row.ids[-1])
        group.members = members

    def _fork(self, sequence: Sequence, group: Grouped) -> Sequence:
        """A copy of a sequence and of its KV cache, in one of the group's slots."""
        assert sequence.slot is not None
        slot = group.spare_slots.pop()
        self.executor.fork(sequence.slot, slot, sequence.computed)
        sample = replace(sequence.sample, row=sequence.sample.row.fork())
        other = Sequence(
            sample,
            sequence.request,
            slot,
            sequence.computed,
            sequence.published,
            sequence.base,
            group,
            adapter=sequence.adapter,
        )
        self.running.append(other)
        return other

    def add_slots(self, count: int) -> None:
        """Add slots, for a group that needs more than there are."""
        self._free += range(self.executor.count, self.executor.count + count)
        for pool in self._pools:
            pool.add(count)

    def fits(self, sequence: Sequence) -> bool:
        """Whether the sequence fits in memory when nothing else runs."""
        return self._has_memory_for(sequence, [0] * len(self._pools))

    @property
    def _pools(self) -> list[Executor]:
        """The executors whose KV cache a sequence needs: the network's, and the draft's."""
        return [
            self.executor,
            *([self.speculator.draft.executor] if self.speculator.draft is not None else []),
        ]

    def _has_memory_for(self, sequence: Sequence, promised: list[int]) -> bool:
        return all(
            have + self._need(sequence, pool) <= pool.memory
            for have, pool in zip(promised, self._pools, strict=True)
        )

    def _need(self, sequence: Sequence, pool: Executor) -> int:
        return slots_needed(sequence) * pool.need(
            min(sequence.max_length(self.executor.max_length), pool.max_length)
        )

    def _reserve(self, sequence: Sequence, sign: int = 1) -> None:
        self._reserved = [
            have + sign * self._need(sequence, pool)
            for have, pool in zip(self._reserved, self._pools, strict=True)
        ]

    def _admit(self) -> None:
        """Give slots strictly in order, so that small sequences cannot starve a large one."""
        while (
            self.waiting
            and len(self._free) >= slots_needed(self.waiting[0])
            and self._has_memory_for(self.waiting[0], self._reserved)
        ):
            sequence = self.waiting.popleft()
            group = sequence.group
            for each in group.sequences if group is not None else [sequence]:
                each.slot = self._free.pop(0)
                self.executor.set_adapter(each.slot, each.adapter)
                self.running.append(each)
            self._reserve(sequence)
            if group is not None:
                left = group.slot_count - len(group.sequences)
                group.spare_slots, self._free = self._free[:left], self._free[left:]

    def plan(self) -> list[tuple[Sequence, TokenChunk, int]]:
        """The next step: for each sequence in it the tokens to run, and how many of those are proposals."""
        self._admit()
        for sequence in self.running:
            self._publish(sequence)
            if sequence.length > self.executor.max_length:
                assert sequence.slot is not None
                self.executor.release(sequence.slot)
                sequence.shift(self.executor.max_length)
        decoding = [
            sequence for sequence in self.running if sequence.uncomputed == 1 and not sequence.waits_for_group
        ]
        prefilling = self._prefilling()
        # Where steps must always be the same, a proposal could tip a tie.
        proposals = {} if self.fixed else self.speculator.propose(decoding)
        plan = [self._decode(sequence, proposals) for sequence in decoding]
        left = max(MIN_PREFILL_ROWS, self.executor.rows - sum(len(part.ids) for _, part, _ in plan))
        for number, sequence in enumerate(prefilling):
            size = min(
                sequence.uncomputed,
                PREFILL_CHUNK - sequence.computed % PREFILL_CHUNK
                if self.fixed
                else max(1, left // (len(prefilling) - number)),
            )
            plan.append(self._prefill(sequence, size))
            left -= size
            if left <= 0:
                break
        return plan

    def _publish(self, sequence: Sequence) -> None:
        if sequence.slot is not None and sequence.computed // PAGE > sequence.published:
            self.executor.publish(sequence.slot, sequence.context_ids[: sequence.computed])
            sequence.published = sequence.computed // PAGE

    def _prefilling(self) -> list[Sequence]:
        """Sequences in prefill. One that shares a prefix with another waits, to reuse its pages."""
        found: list[Sequence] = []
        for sequence in (each for each in self.running if each.uncomputed > 1):
            assert sequence.slot is not None
            if sequence.computed == 0 and not self.fixed:
                if any(
                    other.adapter == sequence.adapter
                    and other.computed < shared_prefix_length(sequence, other)
                    for other in found
                ):
                    continue
                sequence.computed = self.executor.borrow(sequence.slot, sequence.context_ids[:-1])
                if not sequence.sample.row.written:
                    sequence.sample.cached = sequence.computed
            found.append(sequence)
        return found

    def _decode(
        self, sequence: Sequence, proposals: Mapping[int, list[int]]
    ) -> tuple[Sequence, TokenChunk, int]:
        assert sequence.slot is not None
        proposal = proposals.get(sequence.slot, [])
        ids = [sequence.sample.row.ids[-1], *proposal]
        return sequence, TokenChunk(sequence.slot, sequence.computed, ids, len(ids)), len(proposal)

    def _prefill(self, sequence: Sequence, size: int) -> tuple[Sequence, TokenChunk, int]:
        assert sequence.slot is not None
        ids = sequence.context_ids[sequence.computed : sequence.computed + size]
        return (
            sequence,
            TokenChunk(sequence.slot, sequence.computed, ids, int(size == sequence.uncomputed)),
            0,
        )


def slots_needed(sequence: Sequence) -> int:
    """How many slots a sequence needs, with its group."""
    return sequence.group.slot_count if sequence.group is not None else 1


def shared_prefix_length(one: Sequence, other: Sequence) -> int:
    """Tokens of full pages that both sequences begin with, and that the first could reuse."""
    mine, theirs = one.context_ids, other.context_ids
    length, most = 0, min(len(mine) - 1, len(theirs))
    while length + PAGE <= most and mine[length : length + PAGE] == theirs[length : length + PAGE]:
        length += PAGE
    return length
