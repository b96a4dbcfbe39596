"""Reversible maps between a config.json and a GPTConfig: one list of entries, read or written.

As `weights.py` has one rule for each tensor, a family has one entry for each field, so that reading and
writing cannot disagree. `Custom` is for what no table can say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from newleaf.families.config_fields import Fields
from newleaf.model import GPTConfig

REQUIRED: Any = object()


class Entry(Protocol):
    """Some fields of config.json and the fields of GPTConfig that they give."""

    def read(self, fields: Fields) -> dict[str, Any]:
        """The fields of GPTConfig. Raises InputError for a value that newleaf does not support."""

    def write(self, config: GPTConfig) -> dict[str, Any]:
        """The fields of config.json."""


ConfigMap = tuple[Entry, ...]


def read(entries: ConfigMap, fields: Fields) -> GPTConfig:
    """config.json → GPTConfig; a later entry goes before an earlier one."""
    values: dict[str, Any] = {}
    for entry in entries:
        values |= entry.read(fields)
    return GPTConfig(**values)


def write(entries: ConfigMap, config: GPTConfig) -> dict[str, Any]:
    """GPTConfig → config.json. What the family cannot hold is lost: compare what comes back."""
    values: dict[str, Any] = {}
    for entry in entries:
        values |= entry.write(config)
    return values


@dataclass(frozen=True)
class Field:
    """A field that both have. `default` holds where it is absent or null; without one it is required.

    `also` is a second field of ours with the same value. `decode` and `encode` turn their value into ours and
    back. With `empty`, null is a value: it and all that is false mean `empty`.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    also: str = ""
    decode: Callable[[Any], Any] | None = None
    encode: Callable[[Any], Any] | None = None
    empty: Any = None

    def read(self, fields: Fields) -> dict[str, Any]:
        if self.default is REQUIRED:
            value = fields.require(self.theirs)
        elif self.empty is not None:
            value = fields.get_or_null(self.theirs, self.default) or self.empty
        else:
            value = fields.get(self.theirs, self.default)
        value = value if self.decode is None else self.decode(value)
        return dict.fromkeys((self.ours, self.also) if self.also else (self.ours,), value)

    def write(self, config: GPTConfig) -> dict[str, Any]:
        value = getattr(config, self.ours)
        return {self.theirs: value if self.encode is None else self.encode(value)}


@dataclass(frozen=True)
class LayerCount:
    """The number of layers, which is limited since lists are made of it."""

    theirs: str

    def read(self, fields: Fields) -> dict[str, Any]:
        return {"n_layer": fields.require_layers(self.theirs)}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        return {self.theirs: config.n_layer}


@dataclass(frozen=True)
class Choice:
    """A field whose values have other names here: `choices` maps theirs to ours.

    Written is the first name of ours; a choice that they lack becomes their first, and reading it back shows
    the difference.
    """

    theirs: str
    ours: str
    choices: Mapping[str, str]
    default: str

    def read(self, fields: Fields) -> dict[str, Any]:
        value = fields.get(self.theirs, self.default)
        if not isinstance(value, str) or value not in self.choices:
            raise fields.error(self.theirs, value, ", ".join(self.choices))
        return {self.ours: self.choices[value]}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        own = getattr(config, self.ours)
        names = (theirs for theirs, ours in self.choices.items() if ours == own)
        return {self.theirs: next(names, next(iter(self.choices)))}


@dataclass(frozen=True)
class Only:
    """A field that must have this value, or be absent: another would be a network that newleaf has not."""

    theirs: str
    value: Any
    written: bool = False

    def read(self, fields: Fields) -> dict[str, Any]:
        found = fields.get(self.theirs, self.value)
        if found != self.value:
            raise fields.error(self.theirs, found, f"only {self.value!r}")
        return {}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        return {self.theirs: self.value} if self.written else {}


class Fixed:
    """Fields of GPTConfig that every network of the family has alike, and config.json does not say."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def read(self, fields: Fields) -> dict[str, Any]:
        return self.values

    def write(self, config: GPTConfig) -> dict[str, Any]:
        return {}


class Ignored:
    """Fields of config.json that change nothing about the network."""

    def __init__(self, *theirs: str) -> None:
        self.theirs = theirs

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.names_read.update(self.theirs)
        return {}

    def write(self, config: GPTConfig) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Custom:
    """Two functions, for what no table can say."""

    read: Callable[[Fields], dict[str, Any]]
    write: Callable[[GPTConfig], dict[str, Any]] = lambda config: {}
