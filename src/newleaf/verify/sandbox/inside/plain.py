"""Plain data between two processes: values of Python's own types, as JSON with a tag where JSON has no such
type.

A value of a subclass crosses as its base type, by the base's own methods; anything else is refused by its
type's name. What comes out is made of exact built-in types, so nothing that the other side has defined can
act on this one. Size and depth are bounded both ways.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

TYPE_CHECKING = False  # typing takes longer to import than all of this; checkers know the name
if TYPE_CHECKING:
    from typing import Any

BYTES = 4 << 20  # of a message
DEPTH = 100
VALUES = 1_000_000  # in a message
JSON_INTEGER = 1 << 62  # integers up to here cross as JSON's, larger ones in hexadecimal
NAMES = 100  # characters of a type's name in a message


class NotPlainError(Exception):
    """This value does not cross, or what came is not of this form."""


def encode(value: object) -> bytes:
    """A value as bytes. Raises NotPlainError for what is not plain data, too large or too deep."""
    text = json.dumps(_Packer().pack(value, 0), separators=(",", ":")).encode("ascii")
    if len(text) > BYTES:
        raise NotPlainError(f"more than {BYTES:,} bytes of data")
    return text


def decode(text: bytes) -> Any:
    """The value of these bytes. Raises NotPlainError for bytes that `encode` does not make."""
    try:
        return _unpack(json.loads(text), 0)
    except NotPlainError:
        raise
    except Exception:  # JSON's errors, lists of another length, what cannot be a key, names of no type
        raise NotPlainError("not data of the form agreed on") from None


class _Packer:
    def __init__(self) -> None:
        self.left = VALUES

    def pack(self, value: Any, depth: int) -> object:
        self.left -= 1
        if self.left < 0:
            raise NotPlainError(f"more than {VALUES:,} values")
        if depth > DEPTH:
            raise NotPlainError(f"data nested more than {DEPTH} deep")
        if value is None or value is True or value is False:
            return value
        kind = next((base for base in type(value).__mro__ if base in SCALARS or base in CONTAINERS), None)
        if kind in SCALARS:
            return SCALARS[kind](value)
        if kind is not None:
            tag, items = CONTAINERS[kind]
            return [tag, *(self.pack(item, depth + 1) for item in items(value))]
        if isinstance(value, Iterator):  # a generator, a map, a zip: what it gives, once
            return ["iterator", *(self.pack(item, depth + 1) for item in value)]
        raise NotPlainError(f"a value of type {type(value).__name__[:NAMES]}, which is not plain data")


def _integer(value: int) -> object:
    exact = int.__add__(value, 0)
    return exact if -JSON_INTEGER < exact < JSON_INTEGER else ["int", hex(exact)]


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

MADE: dict[str, Callable[[list[Any]], Any]] = {
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


def _unpack(found: Any, depth: int) -> Any:
    if not isinstance(found, list):
        if isinstance(found, dict):
            raise NotPlainError("not data of the form agreed on")
        return found
    if depth > DEPTH + 1:
        raise NotPlainError(f"data nested more than {DEPTH} deep")
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
    return MADE[tag]([_unpack(item, depth + 1) for item in items])
