"""The source of a grammar, from the options: a JSON Schema, a regular expression or Lark rules."""

from __future__ import annotations

from dataclasses import dataclass

from newleaf.errors import InputError
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.constraints.prepared_schema import PreparedSchema
from newleaf.generate.constraints.schema_limits import check_length, parse_schema
from newleaf.generate.options import SamplingConfig

MAX_REGEX_LENGTH = 1 << 20  # characters


@dataclass(frozen=True)
class GrammarSource:
    """What a grammar process compiles: "json_schema" (JSON text), "regex" or "lark"."""

    kind: str
    text: str


def grammar_source(name: str, config: SamplingConfig) -> GrammarSource:
    """The source that option `name` gives. Raises InputError for one that is too long or no schema."""
    if name == "regex":
        check_length(str(config.regex), name, MAX_REGEX_LENGTH)
        return GrammarSource("regex", str(config.regex))
    if name == "grammar":
        check_length(str(config.grammar), name)
        return GrammarSource("lark", str(config.grammar))
    if name == "choice":
        if any(not isinstance(text, str) or not text for text in config.choice):
            raise InputError("choice: every choice must be text of at least one character")
        check_length("".join(config.choice), name)
        return GrammarSource("regex", "|".join(_literal(text) for text in config.choice))
    return schema_source(
        prepare_schema({"type": "object"} if name == "json_object" else parse_schema(config.json_schema))
    )


def schema_source(prepared: PreparedSchema) -> GrammarSource:
    """The source of a schema: Lark rules where llguidance would round its numbers."""
    return (
        GrammarSource("lark", prepared.rules("start"))
        if prepared.uses_lark
        else GrammarSource("json_schema", prepared.text())
    )


def _literal(text: str) -> str:
    """A regular expression for this text alone."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):X}}}" for character in text)
