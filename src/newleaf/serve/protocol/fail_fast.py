"""Validation that stops at the first error: a response names one, and a list may have a million."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema

LISTS = ("list", "set", "frozenset", "tuple")


def _mark(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in LISTS:
            schema["fail_fast"] = True
        for part in schema.values():
            _mark(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _mark(part)


class FailFast(BaseModel):
    """A model whose lists are validated up to the first wrong item, in every branch of a union."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _mark(schema)
        return schema


class FailFastType:
    """The same for a type that is not a model: `Annotated[kind, FailFastType()]`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _mark(schema)
        return schema


def bounded_mapping(count: int, low: float, high: float) -> Any:
    """Validates a mapping of numbers before pydantic, which would list each wrong entry."""

    def check(value: Any) -> Any:
        if isinstance(value, dict):
            if len(value) > count:
                raise ValueError(f"has {len(value):,} entries, and at most {count:,} are taken")
            for name, number in value.items():
                if type(number) not in (int, float) or not low <= number <= high:
                    raise ValueError(f"{str(name)[:40]!r} must have a number from {low:g} to {high:g}")
        return value

    return check
