"""Who runs next: texts wait in the order they came, take a slot when there is memory for the whole of them, and share each round's rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from newleaf.generate.guesses import Guesser
from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.sequence import Sequence
from newleaf.generate.slots import Part, Slots

CHUNK = 64  # tokens of a prompt in a round where rounds must always be the same
LEAST = 8  # rows of a round that prompts have, however many texts are being written


class Scheduler:
    """Texts that wait and texts that have a slot. `fixed` reads prompts in equal parts, so that rounding does not depend on other texts."""

    def __init__(self, slots: Slots, fixed: bool, guesser: Guesser) -> None:
        self.slots, self.fixed, self.guesser = slots, fixed, guesser
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in the order of admission
        self._free = list(range(slots.count))
        self._promised = [0] * len(self._pools)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """The text has ended, or nobody waits for it any more."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self._publish(sequence)
        self.guesser.forget(sequence)
        self.slots.release(sequence.slot)
        self._free.append(sequence.slot)
        self._promise(sequence, -1)
        self.running.remove(sequence)
        sequence.slot = None

    def fits(self, sequence: Sequence) -> bool:
        """Whether there is memory for it at all."""
        return self._room_for(sequence, [0] * len(self._pools))

    @property
    def _pools(self) -> list[Slots]:
        """Whose memory a text needs: the network's, and the draft's, each with a part of the limit."""
        return [self.slots, *([self.guesser.draft.slots] if self.guesser.draft is not None else [])]

    def _room_for(self, sequence: Sequence, promised: list[int]) -> bool:
        return all(have + self._need(sequence, pool) <= pool.memory for have, pool in zip(promised, self._pools, strict=True))

    def _need(self, sequence: Sequence, pool: Slots) -> int:
        return pool.need(min(sequence.most(self.slots.max_length), pool.max_length))

    def _promise(self, sequence: Sequence, sign: int = 1) -> None:
        self._promised = [have + sign * self._need(sequence, pool) for have, pool in zip(self._promised, self._pools, strict=True)]

    def _admit(self) -> None:
        """Strictly in order: a text that needs much memory is not overtaken for ever by those that need little."""
        while self.waiting and self._free and self._room_for(self.waiting[0], self._promised):
            sequence = self.waiting.popleft()
            sequence.slot = self._free.pop(0)
            self.slots.wear(sequence.slot, sequence.adapter)
            self._promise(sequence)
            self.running.append(sequence)

    def plan(self) -> list[tuple[Sequence, Part, int]]:
        """The next round: for each text that takes part what it reads, and how many of those tokens are guesses."""
        self._admit()
        for sequence in self.running:
            self._publish(sequence)
            if sequence.length > self.slots.max_length:
                assert sequence.slot is not None
                self.slots.release(sequence.slot)
                sequence.shift(self.slots.max_length)
        writing = [sequence for sequence in self.running if sequence.unread == 1]
        reading = self._readers()
        # Where rounds must always be the same, a guess could tip a tie.
        guesses = {} if self.fixed else self.guesser.guess(writing)
        plan = [self._write(sequence, guesses) for sequence in writing]
        left = max(LEAST, self.slots.rows - sum(len(part.ids) for _, part, _ in plan))
        for number, sequence in enumerate(reading):
            size = min(sequence.unread, CHUNK - sequence.read % CHUNK if self.fixed else max(1, left // (len(reading) - number)))
            plan.append(self._read(sequence, size))
            left -= size
            if left <= 0:
                break
        return plan

    def _publish(self, sequence: Sequence) -> None:
        if sequence.slot is not None and sequence.read // PAGE > sequence.published:
            self.slots.publish(sequence.slot, sequence.text[: sequence.read])
            sequence.published = sequence.read // PAGE

    def _readers(self) -> list[Sequence]:
        """Texts whose prompts are read now. One that begins like another that is being read waits and borrows its beginning."""
        found: list[Sequence] = []
        for sequence in (each for each in self.running if each.unread > 1):
            assert sequence.slot is not None
            if sequence.read == 0 and not self.fixed:
                if any(other.adapter == sequence.adapter and other.read < common(sequence, other) for other in found):
                    continue
                sequence.read = self.slots.borrow(sequence.slot, sequence.text[:-1])
                if not sequence.sample.row.written:
                    sequence.sample.cached = sequence.read
            found.append(sequence)
        return found

    def _write(self, sequence: Sequence, guesses: Mapping[int, list[int]]) -> tuple[Sequence, Part, int]:
        assert sequence.slot is not None
        guess = guesses.get(sequence.slot, [])
        ids = [sequence.sample.row.ids[-1], *guess]
        return sequence, Part(sequence.slot, sequence.read, ids, len(ids)), len(guess)

    def _read(self, sequence: Sequence, size: int) -> tuple[Sequence, Part, int]:
        assert sequence.slot is not None
        ids = sequence.text[sequence.read : sequence.read + size]
        return sequence, Part(sequence.slot, sequence.read, ids, int(size == sequence.unread)), 0


def common(one: Sequence, other: Sequence) -> int:
    """Tokens of whole pages with which both texts begin, and which the first could borrow."""
    mine, theirs = one.text, other.text
    length, most = 0, min(len(mine) - 1, len(theirs))
    while length + PAGE <= most and mine[length : length + PAGE] == theirs[length : length + PAGE]:
        length += PAGE
    return length
