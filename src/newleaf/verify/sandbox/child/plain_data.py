"""Serialization of plain data between two processes: JSON, with tags for types that JSON does not have.

A value of a subclass is serialized as its base type, by the base's own methods. Any other type is refused by
name. Decoding gives exact built-in types, so that no class of the other process acts on this one. Size and
depth are bounded both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 4 << 20  # of a message
MAX_DEPTH = 100
MAX_VALUES = 1_000_000  # in a message
MAX_JSON_INTEGER = 1 << 62  # larger integers are written in hexadecimal
MAX_NAME_CHARACTERS = 100  # of a type's name in an error


class UnsupportedValueError(Exception):
    """A value that cannot be serialized, or bytes that cannot be decoded."""


def encode(value: object) -> bytes:
    """A value as bytes. Raises UnsupportedValueError for other types, too large or too deep."""
    text = json.dumps(_Encoder().encode(value, 0), separators=(",", ":")).encode("ascii")
    if len(text) > MAX_BYTES:
        raise UnsupportedValueError(f"more than {MAX_BYTES:,} bytes of data")
    return text


def decode(text: bytes) -> Any:
    """The value of these bytes. Raises UnsupportedValueError for other bytes."""
    try:
        return _decode(json.loads(text), 0)
    except UnsupportedValueError:
        raise
    except Exception:  # JSON's errors, lists of another length, what cannot be a key, names of no type
        raise UnsupportedValueError("not data of the form agreed on") from None


class _Encoder:
    def __init__(self) -> None:
        self.left = MAX_VALUES

    def encode(self, value: Any, depth: int) -> object:
        self.left -= 1
        if self.left < 0:
            raise UnsupportedValueError(f"more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise UnsupportedValueError(f"data nested more than {MAX_DEPTH} deep")
        if value is None or value is True or value is False:
            return value
        kind = next((base for base in type(value).__mro__ if base in SCALARS or base in CONTAINERS), None)
        if kind in SCALARS:
            return SCALARS[kind](value)
        if kind is not None:
            tag, items = CONTAINERS[kind]
            return [tag, *(self.encode(item, depth + 1) for item in items(value))]
        if isinstance(value, Iterator):  # a generator, a map, a zip: its items
            return ["iterator", *(self.encode(item, depth + 1) for item in value)]
        raise UnsupportedValueError(
            f"a value of type {type(value).__name__[:MAX_NAME_CHARACTERS]}, which is not plain data"
        )


def _integer(value: int) -> object:
    exact = int.__add__(value, 0)
    return exact if -MAX_JSON_INTEGER < exact < MAX_JSON_INTEGER else ["int", hex(exact)]


SCALARS: dict[Any, Callable[[Any], object]] = {
    int: _integer,
    float: float.__pos__,
    str: str.__str__,
    bytes: lambda value: ["bytes", bytes.hex(value)],
    bytearray: lambda value: ["bytearray", bytearray.hex(value)],
    complex: lambda value: ["complex", complex.__pos__(value).real, complex.__pos__(value).imag],
    range: lambda value: ["range", *map(_integer, (value.start, value.stop, value.step))],
}


def _pairs(value: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    return iter(dict.items(value))


CONTAINERS: dict[Any, tuple[str, Callable[[Any], Iterator[Any]]]] = {
    list: ("list", list.__iter__),
    tuple: ("tuple", tuple.__iter__),
    set: ("set", set.__iter__),
    frozenset: ("frozenset", frozenset.__iter__),
    dict: ("dict", _pairs),
    type({}.keys()): ("keys", iter),
    type({}.values()): ("values", iter),
    type({}.items()): ("items", iter),
}

CONSTRUCTORS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "iterator": iter,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: dict(items).items(),
    "range": lambda items: range(*items),
}


def _decode(found: Any, depth: int) -> Any:
    if not isinstance(found, list):
        if isinstance(found, dict):
            raise UnsupportedValueError("not data of the form agreed on")
        return found
    if depth > MAX_DEPTH + 1:
        raise UnsupportedValueError(f"data nested more than {MAX_DEPTH} deep")
    tag, *items = found
    match tag:
        case "int":
            return int(items[0], 16)
        case "bytes":
            return bytes.fromhex(items[0])
        case "bytearray":
            return bytearray.fromhex(items[0])
        case "complex":
            return complex(*items)
    return CONSTRUCTORS[tag]([_decode(item, depth + 1) for item in items])
