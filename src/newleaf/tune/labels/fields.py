"""Which fields of a row hold the texts and the label: as the recipe says, or guessed by the names that data
sets use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from newleaf.errors import InputError
from newleaf.storage.classifier_folder import Shape

TEXT = (
    "text",
    "sentence",
    "headline",
    "content",
    "review",
    "tweet",
    "document",
    "body",
    "title",
    "input",
    "question",
    "prompt",
    "comment",
)
LABEL = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "gold_label",
    "sentiment",
    "topic",
    "answer_index",
    "answer",
    "gold",
    "output",
)
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2"),
    ("text_a", "text_b"), ("question1", "question2"), ("question", "sentence"), ("question", "answer"),
    ("query", "document"), ("query", "passage"), ("context", "question"),
)  # fmt: skip
BEFORE_CHOICES = (
    "context",
    "ctx",
    "prompt",
    "question",
    "premise",
    "goal",
    "text",
    "sentence",
    "startphrase",
)
CHOICES = ("choices", "endings", "options", "continuations", "answers")
NUMBERED = re.compile(r"(ending|choice|option|answer|sol|mc)_?(\d+)")


@dataclass(frozen=True)
class Fields:
    """Names of fields: `texts` one or two; `choices` one that holds a list, or several that hold a
    continuation each."""

    texts: tuple[str, ...]
    label: str
    choices: tuple[str, ...] = ()

    def described(self) -> str:
        named = " and ".join(map(repr, self.texts)) + (
            f", choices {', '.join(map(repr, self.choices))}" if self.choices else ""
        )
        return f"{named}, label {self.label!r}"


@dataclass(frozen=True)
class Wanted:
    """What the recipe says of the fields; None is to be guessed."""

    text: str | None = None
    second: str | None = None
    choices: tuple[str, ...] = ()
    label: str | None = None


def find_fields(shape: Shape, has: Sequence[str], wanted: Wanted, where: str) -> Fields:
    """The fields of a task of this shape among those that the first row `has`.

    Raises InputError, saying how to name them.
    """
    label = _one(wanted.label, LABEL, has, where, "label")
    texts, choices = _texts(shape, has, [name for name in has if name != label], wanted, where)
    return Fields(texts, label, choices)


def find_texts(shape: Shape, has: Sequence[str], wanted: Wanted, where: str) -> tuple[str, ...]:
    """The fields of what is to be labelled, in rows that may have no label: those that `find_fields` takes
    where there is one. For choice the first is the text and the others are continuations. Raises InputError,
    saying how to name them."""
    lowered = {str(name).lower(): name for name in reversed(has)}
    label = next((lowered[name] for name in LABEL if name in lowered), None)
    if label is not None:
        try:
            return sum(_texts(shape, has, [name for name in has if name != label], wanted, where), ())
        except InputError:
            pass  # what looks like a label may be the text: an answer of a question
    return sum(_texts(shape, has, list(has), wanted, where), ())


def _texts(
    shape: Shape, has: Sequence[str], rest: list[str], wanted: Wanted, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The fields of texts and of continuations among `rest`, which are those of all that are no label."""
    if shape == "choice":
        choices = _choices(rest, wanted.choices, where)
        return (
            _one(wanted.text, BEFORE_CHOICES, [name for name in rest if name not in choices], where, "text"),
        ), choices
    if shape == "classify":
        if wanted.text is None and not any(name in rest for name in TEXT) and len(rest) == 1:
            return (rest[0],), ()
        return (_one(wanted.text, TEXT, rest, where, "text"),), ()
    if wanted.text is None and wanted.second is None:
        for pair in PAIRS:
            if set(pair) <= set(rest):
                return pair, ()
        if len(rest) == 2:
            return (rest[0], rest[1]), ()
        raise _unclear(where, has, "the two texts", "--data.text and --data.second")
    return (_one(wanted.text, (), rest, where, "text"), _one(wanted.second, (), rest, where, "second")), ()


def _choices(rest: list[str], wanted: tuple[str, ...], where: str) -> tuple[str, ...]:
    for name in wanted:
        if name not in rest:
            raise InputError(
                f"{where}: has no field {name!r} (it has: {', '.join(rest[:8])}); data.choices names the "
                f"continuations"
            )
    if wanted:
        return wanted
    for name in CHOICES:
        if name in rest:
            return (name,)
    matches = {name: match for name in rest if (match := NUMBERED.fullmatch(name))}
    numbered = sorted(matches, key=lambda name: int(matches[name][2]))
    if len(numbered) < 2:
        raise _unclear(where, rest, "the continuations", "--data.choices")
    return tuple(numbered)


def _one(wanted: str | None, usual: Sequence[str], has: Sequence[str], where: str, option: str) -> str:
    if wanted is not None:
        if wanted not in has:
            raise InputError(
                f"{where}: has no field {wanted!r} (it has: {', '.join(has[:8])}), which data.{option} names"
            )
        return wanted
    lowered = {str(name).lower(): name for name in reversed(has)}
    for name in usual:
        if name in lowered:
            return lowered[name]
    raise _unclear(where, has, f"the {option}", f"--data.{option}")


def _unclear(where: str, has: Sequence[str], what: str, option: str) -> InputError:
    return InputError(
        f"{where}: which field holds {what} is not clear (it has: {', '.join(map(str, has[:8]))}); say so "
        f"with {option}"
    )


def text_of(values: Mapping[str, Any], name: str, where: str) -> str:
    """A text. Raises InputError when it is none, or empty."""
    value = values.get(name)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"not a text but {type(value).__name__}"
        raise InputError(f"{where}: field {name!r} is {kind}")
    if not value.strip():
        raise InputError(f"{where}: field {name!r} is empty; there is nothing to judge")
    return value
