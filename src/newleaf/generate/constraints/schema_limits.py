"""Parses a JSON Schema, and checks its size and depth before anything else reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from newleaf.errors import InputError

MAX_DEPTH = 100  # objects and arrays within one another
MAX_VALUES = 500_000  # objects, arrays, names, numbers and texts in one schema
MAX_LENGTH = 4 << 20  # of a schema or a grammar
MAX_DIGITS = 4300  # of a number: Python neither reads nor writes more
MAX_NUMBER = 10**MAX_DIGITS
NUMBER_TOO_LONG = f"a number has more than {MAX_DIGITS:,} digits"


def parse_schema(schema: Any) -> Any:
    """A schema as given, or parsed from JSON text.

    Raises InputError with line and column for what is not JSON, and for schemas beyond the limits.
    """
    if isinstance(schema, str):
        check_length(schema, "json_schema")
        try:
            schema = json.loads(schema, parse_constant=_refuse)
        except RecursionError:
            raise InputError(f"json_schema: nested more than {MAX_DEPTH} deep") from None
        except json.JSONDecodeError as error:
            raise InputError(
                f"json_schema, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
            ) from None
        except ValueError as error:  # a constant, or more digits than Python reads
            long = "integer string conversion" in str(error)
            raise InputError(
                f"json_schema: {NUMBER_TOO_LONG if long else f'not valid JSON ({error})'}"
            ) from None
    if not isinstance(schema, dict | bool):
        raise InputError(f"json_schema: must be an object, true or false, not {_short(schema)}")
    check_value(schema, "json_schema")
    return schema


def check_value(value: Any, name: str) -> None:
    """Raises InputError for a JSON value that is nested too deep, or holds too much or what is not JSON."""
    length = 0
    for count, (depth, item) in enumerate(walk(value), start=1):
        if depth > MAX_DEPTH:
            raise InputError(f"{name}: nested more than {MAX_DEPTH} deep")
        if count > MAX_VALUES:
            raise InputError(f"{name}: holds more than {MAX_VALUES:,} values")
        if isinstance(item, str):
            length += len(item)
        elif isinstance(item, int) and abs(item) >= MAX_NUMBER:
            raise InputError(f"{name}: {NUMBER_TOO_LONG}")
        elif isinstance(item, float) and not abs(item) < float("inf"):
            raise InputError(f"{name}: {item} is not a JSON number")
        elif isinstance(item, dict) and not all(isinstance(key, str) for key in item):
            raise InputError(
                f"{name}: every name must be text, not "
                f"{_short(next(key for key in item if not isinstance(key, str)))}"
            )
        elif not isinstance(item, dict | list | tuple | int | float | None):
            raise InputError(f"{name}: {_short(item)} is not a JSON value")
        if length > MAX_LENGTH:
            raise InputError(f"{name}: longer than {MAX_LENGTH:,} characters")


def check_length(text: str, name: str, most: int = MAX_LENGTH) -> None:
    """Raises InputError for a text that is too long."""
    if len(text) > most:
        raise InputError(f"{name}: {len(text):,} characters are too many; at most {most:,}")


def walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Each value nested in `value`, names included, with its depth; without recursion."""
    waiting: list[tuple[int, Any]] = [(0, value)]
    while waiting:
        depth, item = waiting.pop()
        yield depth, item
        if isinstance(item, dict):
            waiting += [(depth, key) for key in item if isinstance(key, str)]
            waiting += [(depth + 1, child) for child in item.values()]
        elif isinstance(item, list | tuple):
            waiting += [(depth + 1, child) for child in item]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _short(value: Any) -> str:
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__}"  # whose text could recurse
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        return f"a number of more than {MAX_DIGITS:,} digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
