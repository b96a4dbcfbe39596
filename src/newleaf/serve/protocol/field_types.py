"""Types of request fields: which alternative a value is meant as, and texts for error messages."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Result = TypeVar("Result")
FieldPath = tuple[str | int, ...]
TYPE_NAMES: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class IgnoreItems:
    """Annotates a list: items whose `type` is one of `kinds` are removed and named.

    With `others`, items of every type but those of the list's own models are.
    """

    kinds: frozenset[str] = frozenset()
    others: bool = False

    def takes(self, item: Any, known: frozenset[Any]) -> bool:
        """Whether this item stays in the list."""
        if not isinstance(item, Mapping) or not isinstance(kind := item.get("type"), str):
            return True
        return kind in known or not (self.others or kind in self.kinds)


def cached_by_id(reading: Callable[[Any], Result]) -> Callable[[Any], Result]:
    """Caches a function of annotations by identity, since some annotations are not hashable."""
    known: dict[int, tuple[Any, Result]] = {}

    def read(annotation: Any) -> Result:
        if id(annotation) not in known:
            known[id(annotation)] = annotation, reading(annotation)
        return known[id(annotation)][1]

    return read


@cached_by_id
def without_constraints(annotation: Any) -> Any:
    """The annotation without its constraints."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


@cached_by_id
def alternatives(annotation: Any) -> list[Any]:
    """The types of a union, with their constraints and without None; of any other type, itself."""
    if get_origin(without_constraints(annotation)) in (Union, types.UnionType):
        return [each for part in get_args(without_constraints(annotation)) for each in alternatives(part)]
    return [] if annotation is type(None) else [annotation]


@dataclass(frozen=True)
class Field:
    """A field's type with its constraints, and whether it is required."""

    annotation: Any
    required: bool


@lru_cache
def fields_of(model: type[BaseModel]) -> Mapping[str, Field]:
    """A model's fields by their names in JSON."""
    return {
        field.alias or name: Field(_annotation(field), field.is_required())
        for name, field in model.model_fields.items()
    }


def _annotation(field: FieldInfo) -> Any:
    found: Any = field.annotation
    return Annotated[found, *field.metadata] if field.metadata else found


@lru_cache
def type_values(model: type[BaseModel]) -> tuple[Any, ...]:
    """The values of the model's `type` field; empty for a model without one."""
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


@cached_by_id
def is_model(annotation: Any) -> bool:
    return isinstance(kind := without_constraints(annotation), type) and issubclass(kind, BaseModel)


@cached_by_id
def item_type(annotation: Any) -> Any:
    """The type of a list's items; None for other types."""
    kind = without_constraints(annotation)
    return get_args(kind)[0] if get_origin(kind) is list else None


@cached_by_id
def ignore_rule(annotation: Any) -> IgnoreItems | None:
    """Which items of this list are ignored, if any."""
    return next(
        (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, IgnoreItems)), None
    )


@cached_by_id
def holds_models(annotation: Any) -> bool:
    """Whether values of this type may contain objects with a schema."""
    return any(
        is_model(each) or ((item := item_type(each)) is not None and holds_models(item))
        for each in alternatives(annotation)
    )


@cached_by_id
def all_type_values(annotation: Any) -> frozenset[Any]:
    """Every `type` that objects of this annotation may have."""
    return frozenset(
        kind
        for each in alternatives(annotation)
        if is_model(each)
        for kind in type_values(without_constraints(each))
    )


def intended_type(value: Any, annotation: Any) -> Any:
    """The alternative that the value is meant as, so that errors can name its fields; None for none."""
    options = alternatives(annotation)
    if len(options) == 1:
        return options[0]
    if isinstance(value, Mapping):
        return _meant_object(value, options)
    if isinstance(value, list):
        return _meant_list(value, [each for each in options if get_origin(without_constraints(each)) is list])
    if isinstance(value, str):
        literals = [each for each in options if get_origin(without_constraints(each)) is Literal]
        found = [each for each in literals if value in get_args(without_constraints(each))] or [
            each for each in options if without_constraints(each) is str
        ]
        return next(iter(found or literals), None)
    kinds = (bool,) if isinstance(value, bool) else (int, float) if isinstance(value, int) else (type(value),)
    return next((each for each in options if without_constraints(each) in kinds), None)


def _meant_object(value: Mapping[str, Any], options: Sequence[Any]) -> Any:
    models = [each for each in options if is_model(each)]
    plain = next(
        (
            each
            for each in options
            if get_origin(without_constraints(each)) is dict or without_constraints(each) is dict
        ),
        None,
    )
    if isinstance(kind := value.get("type"), str):
        typed = [each for each in models if kind in type_values(without_constraints(each))]
        models = typed or [each for each in models if not type_values(without_constraints(each))]
    elif models:
        # Without a type, the model whose default it is, or whose field names match best.
        models = sorted(models, key=lambda each: _likeness(value, without_constraints(each)))[-1:]
    return next(iter(models), plain)


def _likeness(value: Mapping[str, Any], model: type[BaseModel]) -> tuple[int, int]:
    fields = fields_of(model)
    missing = sum(field.required and name not in value for name, field in fields.items())
    return -missing, sum(name in fields for name in value)


def _meant_list(value: list[Any], options: Sequence[Any]) -> Any:
    """By the first item: in a list of another type, a later one would be wrong anyway."""
    for each in options if value else ():
        item = item_type(each)
        first = value[0]
        if any(_is_like(first, without_constraints(kind)) for kind in alternatives(item)):
            return each
    return next(iter(options), None)


def _is_like(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list)
    if is_model(kind):
        return isinstance(value, Mapping)
    return (
        isinstance(kind, type)
        and isinstance(value, kind)
        and not (isinstance(value, bool) and kind is not bool)
    )


def expected_text(annotation: Any) -> str:
    """The expected type of a value, for an error message."""
    words: list[str] = []
    for each in alternatives(annotation):
        kind = without_constraints(each)
        if get_origin(kind) is Literal:
            word = "one of " + ", ".join(map(str, get_args(kind)))
        else:
            word = TYPE_NAMES.get(get_origin(kind) or kind, "an object")
        words += [word] if word not in words else []
    return " or ".join(words)


def value_text(value: Any) -> str:
    """A value in an error message: short ones themselves, others by their type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return TYPE_NAMES[type(value)]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def error_text(problem: Mapping[str, Any]) -> str:
    """Pydantic's error as text, with the value."""
    limits = problem.get("ctx") or {}
    if problem["type"] in ("too_short", "too_long"):
        bound = limits.get("min_length" if problem["type"] == "too_short" else "max_length", 0)
        least = "at least" if problem["type"] == "too_short" else "at most"
        items, actual = "items" if bound != 1 else "item", limits.get("actual_length", "fewer")
        return f"must have {least} {bound:,} {items}, not {actual}"
    text = str(problem["msg"]).removeprefix("Value error, ")
    return f"{text[:1].lower()}{text[1:]}, not {value_text(problem['input'])}"


def path_text(place: FieldPath) -> str:
    """A path as text: messages[0].content"""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step[:100]}" if text else step[:100]
    return text
