"""The schemas that parts of an answer are to fit: made ready for a grammar, and errors told by the names that
the request has for them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.json_schema import prepare_schema
from newleaf.generate.constraints.prepared_schema import PreparedSchema
from newleaf.generate.constraints.schema_limits import parse_schema
from newleaf.serve.api_errors import ApiError

MAX_DUPLICATES = 10  # names that are named


class SchemaCheckError(Exception):
    """A check could not be made, or took too long."""


@dataclass(frozen=True)
class AnswerSchema:
    """A schema as the request gives it. `param` is its name in OpenAI's errors, `place` its path in the
    body."""

    schema: Any
    param: str
    place: str
    strict: bool = False

    def ready(self, grammars: GrammarCompiler | None) -> PreparedSchema:
        """The schema for a grammar. With `grammars` it is compiled by itself, so that what fails is found
        and, unless this is strict, dropped; without, it may still fail.

        Raises ApiError that names the keyword and its place.
        """
        try:
            if grammars is None:
                return prepare_schema(parse_schema(self.schema), not self.strict)
            return grammars.prepare(self.schema, not self.strict)
        except InputError as error:
            text = str(error).removeprefix("json_schema")
            raise ApiError(400, f"{self.param}{text}", self.param, "invalid_value") from None

    def loosened(self, prepared: PreparedSchema) -> tuple[str, ...]:
        """Paths in the body of the keywords that were dropped."""
        return tuple(self.place + pointer.removeprefix("#") for pointer in prepared.loosened)

    def watched(self, prepared: PreparedSchema, bare: bool = False) -> AnswerSchema | None:
        """What of this schema is to be looked at when a value is whole: all where the grammar's was loosened
        or values are `bare` text, only names that stand there twice where others than those
        listed may; None for nothing."""
        return self if prepared.loosened or bare else replace(self, schema=True) if prepared.open else None

    def unmet(self, grammars: GrammarCompiler, text: str) -> list[str]:
        """Where JSON does not fit the schema as it was given, or has a name twice. Raises UncheckedError
        where that cannot be said."""
        twice: list[str] = []

        def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
            value = dict(found)
            if len(value) < len(found) and len(twice) < MAX_DUPLICATES:
                names = [name for name, _ in found]
                twice.append(
                    f"{self.place}: an object has the name {max(names, key=names.count)[:80]!r} twice"
                )
            return value

        try:
            value = json.loads(text, object_pairs_hook=pairs)
        except (ValueError, RecursionError):
            return [self.place]
        wrong = grammars.check(self.schema, value) if self.schema is not True else []
        if wrong is None:
            raise SchemaCheckError
        return twice + [f"{self.place}: {each}" for each in wrong]


def as_object(schema: Any) -> Any:
    """The schema of a call's arguments, which are an object, whatever the function's parameters say or leave
    open."""
    if not isinstance(schema, dict) or schema.get("type") == "object":
        return schema or {"type": "object", "properties": {}}
    return {**schema, "type": "object"}
