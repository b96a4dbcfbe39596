"""Schemas of an answer and its calls: prepared for a grammar, checked, with errors by field name."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_compiler import GrammarCompiler
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.constraints.prepared_schema import PreparedSchema
from newleaf.generate.constraints.schema_limits import parse_schema
from newleaf.serve.api_errors import ApiError

MAX_DUPLICATES = 10  # names in an error


class SchemaCheckError(Exception):
    """A check against a schema failed to run, or took too long."""


@dataclass(frozen=True)
class AnswerSchema:
    """A schema as the request has it, with its parameter's name (`param`) and JSON path (`place`)."""

    schema: Any
    param: str
    place: str
    strict: bool = False

    def ready(self, grammars: GrammarCompiler | None) -> PreparedSchema:
        """The schema prepared for a grammar.

        With `grammars` it is compiled by itself: unsupported keywords are found and, unless this is strict,
        dropped. Raises ApiError that names the keyword and its path.
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
        """The schema that finished values are checked against; None for none.

        The full schema where it was loosened or values are `bare` text; only duplicate names where objects
        are open.
        """
        return self if prepared.loosened or bare else replace(self, schema=True) if prepared.open else None

    def unmet(self, grammars: GrammarCompiler, text: str) -> list[str]:
        """Where JSON violates the schema or has duplicate names. Raises SchemaCheckError."""
        duplicates: list[str] = []

        def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
            value = dict(found)
            if len(value) < len(found) and len(duplicates) < MAX_DUPLICATES:
                names = [name for name, _ in found]
                duplicates.append(
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
        return duplicates + [f"{self.place}: {each}" for each in wrong]


def as_object(schema: Any) -> Any:
    """The schema of a call's arguments, which are always an object."""
    if not isinstance(schema, dict) or schema.get("type") == "object":
        return schema or {"type": "object", "properties": {}}
    return {**schema, "type": "object"}
