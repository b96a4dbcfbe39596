"""The conversations or pairs of a recipe, split into those to learn from and those held out, and named by a
fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from newleaf.data.stdlib_chat import HELD_OUT, NAME
from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.train.display.monitor import Monitor
from newleaf.tune.conversations.assistant_mask import Answers
from newleaf.tune.conversations.conversation_config import ConversationDataConfig
from newleaf.tune.conversations.conversation_formats import Conversation
from newleaf.tune.conversations.example import Example, ExamplePair
from newleaf.tune.conversations.read_examples import Findings, Reading

T = TypeVar("T")
Talk = tuple[Conversation, list[Example]]


@dataclass(frozen=True)
class Split:
    """Where rows come from: the sources to learn from, and those held out (None: the last rows of the
    former)."""

    sources: Sequence[str]
    config: ConversationDataConfig

    @property
    def validation(self) -> Sequence[str] | None:
        if self.config.validation is None and tuple(self.sources) == (NAME,):
            return (HELD_OUT,)
        return self.config.validation

    def read(self, rows: Callable[[Iterable[str], int | None], list[T]]) -> tuple[list[T], list[T]]:
        """Both parts, by a function that reads sources up to a limit. Raises InputError when one is empty."""
        if not self.sources:
            raise InputError("no data: name a .jsonl file, or newleaf:stdlib-chat")
        train, validation = rows(self.sources, self.config.limit), self.validation
        if validation is not None:
            return self._checked(train, rows(validation, self.config.validation_limit))
        count = max(1, round(len(train) * self.config.val_fraction))
        count = min(count, self.config.validation_limit or count)
        return self._checked(train[:-count], train[-count:])

    def _checked(self, train: list[T], held_out: list[T]) -> tuple[list[T], list[T]]:
        if not train or not held_out:
            raise InputError(
                f"{self.sources[0]}: has {counted(len(train), 'row')} to learn from "
                f"and {len(held_out)} held out, too few; give more or data.validation"
            )
        return train, held_out


def read_conversations(
    split: Split, reading: Reading, answers: Answers, monitor: Monitor
) -> tuple[list[Talk], list[Talk]]:
    """The conversations that teach something, with their examples; what was left out is said."""

    def rows(sources: Iterable[str], limit: int | None) -> list[Talk]:
        found = Findings()
        limited = dataclasses.replace(reading, limit=limit)
        talks = list(limited.examples(limited.conversations(sources, found), answers, found, monitor.stage))
        for sentence in found.sentences():
            monitor.say(sentence)
        if (longer := found.too_long(reading.length)) is not None:
            monitor.say(longer)
        if not talks and found.first is not None:
            (reason, _), *_ = found.left_out.most_common(1)
            raise InputError(
                f"{found.first}: {reason}, as are all conversations here; there is nothing to learn"
            )
        return talks

    return split.read(rows)


def read_pairs(
    split: Split, reading: Reading, answers: Answers, monitor: Monitor
) -> tuple[list[ExamplePair], list[ExamplePair]]:
    """The pairs; what was left out is said."""

    def rows(sources: Iterable[str], limit: int | None) -> list[ExamplePair]:
        found = Findings()
        limited = dataclasses.replace(reading, limit=limit)
        pairs = list(limited.pairs(sources, answers, found, monitor.stage))
        for sentence in found.sentences("pairs"):
            monitor.say(sentence)
        return pairs

    return split.read(rows)


def fingerprint_of(examples: Iterable[Example]) -> str:
    """Names these examples: ids and what is learned of them."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(example.ids.tobytes())
        digest.update(example.learned.tobytes() + b"|")
    return digest.hexdigest()
