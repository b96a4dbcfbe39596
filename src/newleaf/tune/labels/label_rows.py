"""Labelled examples: rows to texts and labels in the data's own type, checked, and split into training and
validation."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from newleaf.data.bad_documents import BadDocumentError
from newleaf.data.encodings import canonical_encoding
from newleaf.errors import InputError
from newleaf.format_amounts import counted
from newleaf.storage.classifier_folder import Label, Shape
from newleaf.tune.labels.fields import Fields, Wanted, find_fields, text_of
from newleaf.tune.labels.table import Row, read_table


@dataclass(frozen=True)
class LabelledConfig:
    """Rows with labels. Fields that are not named are guessed, and told.

    `val_fraction` of the rows, drawn by chance, are held out, unless `validation` names rows of their own;
    `test` names rows that only the closing report reads.
    """

    text: str | None = None
    second: str | None = None  # of a pair
    choices: tuple[str, ...] = ()
    label: str | None = None
    validation: str | tuple[str, ...] | None = None
    val_fraction: float = 0.1
    test: str | tuple[str, ...] | None = None
    limit: int | None = None  # rows to learn from
    on_error: Literal["stop", "skip"] = "stop"
    encoding: str | None = None  # of the files; guessed where they are not UTF-8

    def __post_init__(self) -> None:
        if self.encoding is not None:
            object.__setattr__(self, "encoding", canonical_encoding(self.encoding))
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction: must be between 0 and 1, not {self.val_fraction!r}")
        if self.limit is not None and self.limit < 2:
            raise ValueError(f"limit: must be at least 2, not {self.limit!r}")


@dataclass(frozen=True)
class Example:
    """`texts`: one, two, or a text and its continuations.

    `answers`: the labels that hold (several with multi-label), or the number of the right continuation.
    """

    where: str
    texts: tuple[str, ...]
    answers: tuple[Label, ...]


@dataclass(frozen=True)
class Examples:
    """What the files held. `labels` are all there are, in order; none for choices."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[Label, ...]
    multi_label: bool
    fields: Fields
    skipped: Counter[str]
    first_skipped: str | None
    fingerprint: str


def read_examples(shape: Shape, sources: Sequence[str], config: LabelledConfig, seed: int) -> Examples:
    """Read everything. Raises InputError, with file and line, for rows that cannot be, for a single label,
    and for labels that only the validation has."""
    reader = ExampleReader(shape, config)
    train = reader.examples(sources, config.limit)
    separate = _names(config.validation)
    if separate:
        validation = reader.examples(separate, None)
    else:
        train, validation = _split(train, config.val_fraction, seed, reader.first or str(sources[0]))
    test = reader.examples(_names(config.test), None) if config.test else []
    labels = reader.labels(train)
    for part in (validation, test):
        reader.check_known(part, labels)
    content = [[example.texts, example.answers] for part in (train, validation, test) for example in part]
    fingerprint = hashlib.blake2b(json.dumps(content, ensure_ascii=True).encode(), digest_size=16).hexdigest()
    assert reader.fields is not None
    return Examples(
        tuple(train), tuple(validation), tuple(test), labels, reader.multi_label, reader.fields,
        reader.skipped, reader.first_skipped, fingerprint,
    )  # fmt: skip


class ExampleReader:
    """Reads rows of one kind: the first row settles the fields and whether labels are lists."""

    def __init__(self, shape: Shape, config: LabelledConfig) -> None:
        self.shape, self.config = shape, config
        self.fields: Fields | None = None
        self.multi_label = False
        self.kind: type | None = None
        self.first: str | None = None
        self.skipped: Counter[str] = Counter()
        self.first_skipped: str | None = None

    def examples(self, sources: Iterable[str], limit: int | None) -> list[Example]:
        found: list[Example] = []
        names = list(sources)
        for row in read_table(names, self._bad, self.config.encoding):
            try:
                found.append(self.example(row))
            except InputError as error:
                self._bad(error)
            if len(found) == limit:
                break
        if not found:
            raise InputError(f"{', '.join(names)}: holds no labelled rows")
        return found

    def _bad(self, error: InputError) -> None:
        """A row that is none, or has no example: it ends everything, or is counted."""
        readable = not isinstance(error, BadDocumentError)
        if self.config.on_error == "stop" or (readable and self.fields is None):
            hint = "; --data.on_error skip leaves such rows out" if self.fields is not None else ""
            raise InputError(f"{error}{hint}") from None
        self.skipped["rows"] += 1
        self.first_skipped = self.first_skipped or str(error)

    def example(self, row: Row) -> Example:
        """What a row says. Raises InputError, naming it, where it is no example."""
        if self.fields is None:
            wanted = Wanted(self.config.text, self.config.second, self.config.choices, self.config.label)
            self.fields = find_fields(self.shape, list(row.values), wanted, row.where)
            self.multi_label = self.shape != "choice" and isinstance(row.values.get(self.fields.label), list)
            self.first = row.where
        texts = [text_of(row.values, name, row.where) for name in self.fields.texts]
        if self.shape == "choice":
            choices = continuations(row.values, self.fields.choices, row.where)
            return Example(row.where, (*texts, *choices), (self._number(row, choices),))
        return Example(row.where, tuple(texts), self._answers(row))

    def _answers(self, row: Row) -> tuple[Label, ...]:
        assert self.fields is not None
        value = row.values.get(self.fields.label)
        if value is None or value == "":
            raise InputError(f"{row.where}: has no label (field {self.fields.label!r})")
        if isinstance(value, list) != self.multi_label:
            raise InputError(
                f"{row.where}: its label is {'no' if self.multi_label else 'a'} list, unlike the first "
                f"row's ({self.first})"
            )
        found = value if self.multi_label else [value]
        return tuple(dict.fromkeys(self._label(each, row.where) for each in found))

    def _label(self, value: Any, where: str) -> Label:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # as tables write whole numbers
        if not isinstance(value, str | int):
            raise InputError(f"{where}: a label is a text, a whole number or true or false, not {value!r}")
        self.kind = self.kind or type(value)
        if type(value) is not self.kind:
            raise InputError(
                f"{where}: label {value!r} is of type {type(value).__name__}, and those before it of "
                f"{self.kind.__name__}"
            )
        return value

    def _number(self, row: Row, choices: list[str]) -> int:
        """The right continuation, from 0: said by its number, its letter or itself."""
        assert self.fields is not None
        value = row.values.get(self.fields.label)
        if value is None or value == "":
            raise InputError(f"{row.where}: has no label (field {self.fields.label!r})")
        if isinstance(value, str) and value in choices:
            return choices.index(value)
        if isinstance(value, str) and len(value) == 1 and value.isalpha():
            number = ord(value.upper()) - ord("A")
        else:
            try:
                number = int(value)
            except (TypeError, ValueError):
                number = -1
        if not 0 <= number < len(choices):
            raise InputError(
                f"{row.where}: label {value!r} names none of the {len(choices)} continuations (they count "
                f"from 0)"
            )
        return number

    def labels(self, train: Sequence[Example]) -> tuple[Label, ...]:
        """All labels of the training rows. Raises InputError when there are fewer than two."""
        if self.shape == "choice":
            return ()
        found = {answer for example in train for answer in example.answers}
        if len(found) < (1 if self.multi_label else 2):
            only = f"every row has the label {next(iter(found))!r}" if found else "no row has a label"
            raise InputError(f"{self.first}: {only}; there is nothing to tell apart")
        return tuple(sorted(found, key=lambda label: (str(type(label)), label)))

    def check_known(self, part: Sequence[Example], labels: Sequence[Label]) -> None:
        known = set(labels)
        for example in part if self.shape != "choice" else ():
            for answer in example.answers:
                if answer not in known:
                    shown = ", ".join(repr(label) for label in labels[:8])
                    raise InputError(
                        f"{example.where}: label {answer!r} is not among those to learn ({shown})"
                    )


def continuations(values: Mapping[str, Any], fields: Sequence[str], where: str) -> list[str]:
    """The continuations of a row: in a field each, or all in one as a list (or as ARC has them).

    Raises InputError where they are none.
    """
    if len(fields) > 1:
        return [text_of(values, name, where) for name in fields]
    held = values.get(fields[0])
    held = held.get("text") if isinstance(held, dict) else held
    if not isinstance(held, list) or len(held) < 2:
        raise InputError(f"{where}: field {fields[0]!r} must be a list of at least two continuations")
    named = {str(number): text for number, text in enumerate(held)}
    return [text_of(named, name, where) for name in named]


def _split(
    found: list[Example], fraction: float, seed: int, where: str
) -> tuple[list[Example], list[Example]]:
    """Some rows held out, drawn by chance: files are often sorted by label."""
    if len(found) < 4:
        raise InputError(
            f"{where}: holds {counted(len(found), 'row')}, too few to hold "
            "some back; give more, or a validation file with --data.validation"
        )
    order = np.random.default_rng([seed, 7]).permutation(len(found))
    held = set(order[: max(1, round(fraction * len(found)))].tolist())
    return [e for n, e in enumerate(found) if n not in held], [e for n, e in enumerate(found) if n in held]


def _names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)
