"""Every conversation of a source as examples that fit: cut at a turn where they are longer, skipped where
they teach nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from newleaf.errors import InputError
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_formats import Conversation, to_conversation
from newleaf.tune.conversations.conversation_rows import Row, read_rows
from newleaf.tune.conversations.example import Example, ExamplePair
from newleaf.tune.conversations.pairs import to_pair

T = TypeVar("T")
Progress = Callable[[str, int, int | None], None]
HELD = 0.95  # of the conversations
NOTHING_LEARNED = "without an answer to learn from"


@dataclass
class Findings:
    """What reading found, for people: shapes, and what was cut, split or left out, and why."""

    shapes: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    first: str | None = None
    places: list[int] = field(default_factory=list)  # of each conversation, before anything is cut

    def too_long(self, length: int) -> str | None:
        """How many conversations have more than `length` tokens, and how many tokens would hold nearly all.

        None where all fit.
        """
        longer = sum(places > length for places in self.places)
        if not longer:
            return None
        enough = sorted(self.places)[math.ceil(HELD * len(self.places)) - 1]
        return (
            f"{longer:,} of {len(self.places):,} conversations have more than the {length:,} tokens of an "
            f"example; "
            f"{max(enough, length + 1):,} would hold at least {100 * HELD:.0f} % of them."
        )

    def sentences(self, what: str = "conversations") -> list[str]:
        """One line for each thing worth saying."""
        said = [f"Read {count:,} {what} in {name} format." for name, count in self.shapes.most_common()]
        said += [f"{count:,} {what} {change}." for change, count in self.changed.items()]
        if self.left_out:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items())
            said.append(f"Left out: {counts}. The first: {self.first}")
        return said

    def leave_out(self, reason: str, where: str) -> None:
        self.left_out[reason] += 1
        self.first = self.first or where


@dataclass(frozen=True)
class Reading:
    """How rows are read: the most positions of an example, a system message for conversations without one,
    and what a bad row means.

    `context` is that of the model, to say how an example can have more; 0 where it is not known."""

    length: int
    system: str | None = None
    limit: int | None = None
    on_error: Literal["stop", "skip"] = "stop"
    encoding: str | None = None  # of the files
    context: int = 0

    @property
    def _longer(self) -> str:
        """How an example can have more positions."""
        if not self.context:
            return "raise chat.length where the context allows it"
        if self.length < self.context:
            return f"raise chat.length, up to the model's context of {self.context:,}"
        return (
            f"begin from a model with a longer context, which pretrain makes with "
            f"--model.context_length {2 * self.context}"
        )

    def conversations(self, sources: Iterable[str], found: Findings) -> Iterator[Conversation]:
        """The conversations, checked."""
        for row in read_rows(sources, self.encoding):
            made = self._guarded(partial(_conversation, row, self.system), found)
            if made is not None:
                found.shapes[made.shape] += 1
                yield made
            if self.limit is not None and sum(found.shapes.values()) >= self.limit:
                return

    def _guarded(self, make: Callable[[], T], found: Findings) -> T | None:
        """What `make` makes; None for a bad row where those are to be skipped."""
        try:
            return make()
        except InputError as error:
            if self.on_error == "stop":
                hint = "; --data.on_error skip leaves such rows out" if found.shapes else ""
                raise InputError(f"{error}{hint}") from None
            found.leave_out("bad", str(error))
            return None

    def examples(
        self,
        conversations: Iterable[Conversation],
        answers: Answers,
        found: Findings,
        on_progress: Progress | None = None,
    ) -> Iterator[tuple[Conversation, list[Example]]]:
        """Each conversation that teaches something, with its examples."""
        for number, conversation in enumerate(conversations):
            if on_progress is not None and number % 64 == 0:
                on_progress("rendering conversations", number, None)
            made = self._guarded(partial(self._made, conversation, answers, found), found)
            taught = [example for example in made or () if example.has_targets]
            if taught:
                yield conversation, taught
            elif made is not None:
                found.leave_out(NOTHING_LEARNED, conversation.where)

    def pairs(
        self, sources: Iterable[str], answers: Answers, found: Findings, on_progress: Progress | None = None
    ) -> Iterator[ExamplePair]:
        """The pairs, each answer an example; nothing is cut, since both must end as they were judged."""
        for number, row in enumerate(read_rows(sources, self.encoding)):
            if on_progress is not None and number % 64 == 0:
                on_progress("rendering pairs", number, None)
            made = self._guarded(partial(self._pair, row, answers, found), found)
            if made is not None:
                yield made
            if self.limit is not None and sum(found.shapes.values()) >= self.limit:
                return

    def _pair(self, row: Row, answers: Answers, found: Findings) -> ExamplePair:
        pair, sides = to_pair(row.read(), row.where, self.system), []
        for name, talk in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            made = answers.examples(talk)
            if len(made) != 1 or not made[0].has_targets:
                raise InputError(
                    f"{row.where}: {name}: must end with one answer that the chat template shows"
                )
            if made[0].places > self.length:
                raise InputError(
                    f"{row.where}: {name}: has {made[0].places:,} tokens, and an example may have "
                    f"{self.length:,}; "
                    f"shorten it, or {self._longer}"
                )
            sides.append(made[0])
        found.shapes[pair.shape] += 1
        return ExamplePair(sides[0], sides[1])

    def _made(self, conversation: Conversation, answers: Answers, found: Findings) -> list[Example]:
        if not conversation.said_by_assistant():
            return []
        made = answers.examples(conversation)
        found.places.append(max(example.places for example in made))
        if len(made) > 1:
            found.changed[
                "split, an example for each answer, since the chat template rewrites earlier ones"
            ] += 1
        fitting = [example for example in made if example.places <= self.length]
        if len(fitting) == len(made):
            return made
        fitting = fitting or self._cut(conversation, answers, made[0])
        if not fitting:
            raise InputError(
                f"{conversation.where}: even its first answer ends beyond {self.length:,} tokens, which is "
                f"what an example may have; "
                f"shorten it, or {self._longer}"
            )
        found.changed[
            f"cut at a turn, to the {self.length:,} tokens of an example; to keep all of it, {self._longer}"
        ] += 1
        return fitting

    def _cut(self, conversation: Conversation, answers: Answers, whole: Example) -> list[Example]:
        """The conversation up to the last answer with which it still fits."""
        ends = np.flatnonzero(whole.learned & ~np.append(whole.learned[1:], False))
        # one too many where a template writes more behind an answer
        fitting = int((ends <= self.length).sum())
        for last in reversed(conversation.said_by_assistant()[:fitting]):
            shorter = replace(
                conversation,
                messages=conversation.messages[: last + 1],
                learned=conversation.learned[: last + 1],
            )
            made = answers.examples(shorter)
            if all(example.places <= self.length for example in made):
                return made
        return []


def _conversation(row: Row, system: str | None) -> Conversation:
    return to_conversation(row.read(), row.where, system)
