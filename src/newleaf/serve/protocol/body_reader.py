"""Prepares request bodies for the schemas: null is absent, unknown fields are removed and named.

Clients send back what they received, null fields included, and fields of other servers or later models.
Advisory fields are ignored by name. Fields that would change the answer
(`serve/protocol/unsupported_fields.py`) are refused by name. Other servers' names
(`serve/protocol/field_aliases.py`) are translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from newleaf.serve.api_errors import ApiError, encodable
from newleaf.serve.protocol.fail_fast import FailFastType
from newleaf.serve.protocol.field_aliases import translate_aliases
from newleaf.serve.protocol.field_types import (
    FieldPath,
    all_type_values,
    error_text,
    expected_text,
    fields_of,
    holds_models,
    ignore_rule,
    intended_type,
    is_model,
    item_type,
    path_text,
    value_text,
    without_constraints,
)
from newleaf.serve.protocol.unsupported_fields import UNSUPPORTED_CONTENT, unsupported_reason

MAX_IGNORED = 100  # of what was ignored in one request


@dataclass
class BodyReader:
    """Reads one body of a `model`.

    `strict` refuses unknown fields. `ignored` has the paths of what was removed.
    """

    model: type[BaseModel]
    strict: bool = False
    ignored: list[str] = field(default_factory=list)
    body: Any = None

    def read(self, body: Any) -> Any:
        """The body for pydantic to validate. Raises ApiError for fields that cannot be ignored."""
        if not isinstance(body, dict):
            return body
        self.body = body if self.strict else translate_aliases(body, self.model, self.note)
        return self._tidy(self.body, self.model, ())

    def note(self, *place: str | int) -> None:
        """Note that the field at this path is ignored."""
        if len(self.ignored) < MAX_IGNORED:
            self.ignored.append(encodable(path_text(place)))

    def problem(self) -> ApiError | None:
        """What is wrong with the body, by the types its values are meant as; None for nothing."""
        return self._problem(self.body, self.model, ()) if isinstance(self.body, dict) else None

    # ---- what stays

    def _tidy(self, value: Any, annotation: Any, place: FieldPath) -> Any:
        if not isinstance(value, dict | list):
            return value
        one = intended_type(value, annotation)
        if is_model(one) and isinstance(value, dict):
            return self._fields(value, without_constraints(one), place)
        item = item_type(one)
        if item is not None and isinstance(value, list) and holds_models(item):
            kept = []
            for number, each in enumerate(value):
                if self._takes(each, one, item):
                    kept.append(self._tidy(each, item, (*place, number)))
                else:
                    self.note(*place, number)
            return kept
        if (
            get_origin(without_constraints(one)) is dict
            and isinstance(value, dict)
            and get_args(without_constraints(one))[1] is not Any
        ):
            return {name: each for name, each in value.items() if each is not None}
        return value

    def _fields(self, value: dict[str, Any], model: type[BaseModel], place: FieldPath) -> dict[str, Any]:
        fields = fields_of(model)
        kept = {}
        for name, each in value.items():
            if each is None and (name in fields or not self.strict):
                continue
            if name in fields:
                kept[name] = self._tidy(each, fields[name].annotation, (*place, name))
            elif self.strict:
                kept[name] = each
            elif (why := unsupported_reason(model, name, each)) is not None:
                raise _unsupported((*place, name), why)
            else:
                self.note(*place, name)
        return kept

    def _takes(self, item: Any, annotation: Any, kind: Any) -> bool:
        rule = ignore_rule(annotation)
        return self.strict or rule is None or rule.takes(item, all_type_values(kind))

    # ---- what is wrong

    def _problem(self, value: Any, annotation: Any, place: FieldPath) -> ApiError | None:
        one = intended_type(value, annotation)
        if one is None or (is_model(one) and not isinstance(value, dict)):
            return _no_alternative(value, annotation, place)
        if is_model(one):
            return self._problem_of_fields(value, without_constraints(one), place)
        item = item_type(one)
        if item is None or not isinstance(value, list) or not holds_models(item):
            return _complaint(value, one, place)
        if (found := _complaint(value, _plain_list(one), place)) is not None:
            return found
        several = (
            self._problem(each, item, (*place, n))
            for n, each in enumerate(value)
            if self._takes(each, one, item)
        )
        return next((each for each in several if each is not None), None)

    def _problem_of_fields(
        self, value: dict[str, Any], model: type[BaseModel], place: FieldPath
    ) -> ApiError | None:
        fields = fields_of(model)
        if "type" in fields and isinstance(kind := value.get("type"), str) and kind in UNSUPPORTED_CONTENT:
            return _unreadable(kind, place)
        for name, each in fields.items():
            if value.get(name) is not None:
                if (found := self._problem(value[name], each.annotation, (*place, name))) is not None:
                    return found
            elif each.required:
                path = path_text((*place, name))
                return ApiError(400, f"{path}: is missing", path, "missing_required_parameter")
        unknown = (name for name in value if name not in fields and self.strict)
        return next(
            (_unsupported((*place, name), "this parameter is not supported") for name in unknown), None
        )


def _unsupported(place: FieldPath, why: str) -> ApiError:
    path = encodable(path_text(place))
    return ApiError(400, f"{path}: {why}", path, "unsupported_parameter")


def _unreadable(kind: str, place: FieldPath) -> ApiError:
    path = path_text(place)
    return ApiError(
        400, f"{path}: {UNSUPPORTED_CONTENT[kind]} cannot be read here; send text", path, "unsupported_value"
    )


def _no_alternative(value: Any, annotation: Any, place: FieldPath) -> ApiError:
    path, text = place, expected_text(annotation)
    if isinstance(value, Mapping) and (kinds := all_type_values(annotation)):
        kind = value.get("type")
        if isinstance(kind, str) and kind in UNSUPPORTED_CONTENT:
            return _unreadable(kind, place)
        value, path, text = kind, (*place, "type"), "one of " + ", ".join(sorted(map(str, kinds)))
    name = path_text(path)
    return ApiError(400, encodable(f"{name}: must be {text}, not {value_text(value)}"), name, "invalid_value")


def _plain_list(annotation: Any) -> Any:
    """A list type with its own constraints and items of any type."""
    metadata = getattr(annotation, "__metadata__", ())
    return Annotated[list[Any], *metadata] if metadata else list[Any]


def _complaint(value: Any, annotation: Any, place: FieldPath) -> ApiError | None:
    """Pydantic's error for a value without objects that have a schema."""
    try:
        TypeAdapter(Annotated[annotation, FailFastType()], config={"strict": True}).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        path = encodable(path_text((*place, *(step for step in found["loc"] if step != "[key]"))))
        return ApiError(400, encodable(f"{path}: {error_text(found)}"), path, "invalid_value")
    return None
