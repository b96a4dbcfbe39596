"""Constraints: which tokens may follow so that the text fits a JSON Schema, a regular expression, a Lark grammar or a list.

By llguidance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

SPACE = r"[ \t\r\n]{1,16}"  # between JSON's parts: bounded, since small models love to write nothing but spaces
SUBSCHEMAS = 200  # at most so many are tried to find the one that is wrong
STATES = 50_000  # of the lexer; one to two kilobytes each


class Constraint:
    """Where one text stands in its grammar."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)

    def allowed(self, size: int) -> Tensor:
        """Which ids may follow: bool [size]. None may where llguidance's limits were reached."""
        flags = torch.zeros(size, dtype=torch.bool)
        if not self._matcher.is_error():
            try:
                self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
            except ValueError:  # the limits on time and memory
                return flags
            found = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[:size]
            flags[: len(found)] = torch.from_numpy(found.view(np.bool_))
        return flags

    def take(self, token: int) -> None:
        """A token was written."""
        self._matcher.consume_token(token)

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, the first ones, may follow one after the other."""
        return 0 if self._matcher.is_error() else int(self._matcher.validate_tokens(list(tokens)))

    def fork(self) -> Constraint:
        """The same place, for a text that goes on by itself."""
        return Constraint(self._matcher.deep_copy(), len(self._bits) * 32)

    @property
    def complete(self) -> bool:
        """Whether the text fits, and nothing but its end may follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def problem(self) -> str:
        """What went wrong on the way, in one line; nothing when nothing did."""
        return _first_line(self._matcher.get_error())


class Grammars:
    """Makes constraints for one tokenizer; setting it up takes about a second for fifty thousand tokens, once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def compile(self, config: SamplingConfig) -> Constraint | None:
        """The constraint that the options ask for, at its beginning; None when they ask for none.

        Raises InputError, naming option and place, for what is not valid, not known to llguidance, or beyond its limits.
        """
        if not config.constraints:
            return None
        (name,) = config.constraints
        grammar = self._grammar(name, config)
        matcher = self._matcher(grammar)
        if matcher.is_error():
            raise InputError(self._complaint(name, config, matcher.get_error()))
        size = self.tokenizer.vocab_size
        constraint = Constraint(matcher, size)
        if not constraint.allowed(size).any():
            raise InputError(f"{name}: {constraint.problem or 'no text fits it'}")
        return constraint

    def _grammar(self, name: str, config: SamplingConfig) -> str:
        from llguidance import LLMatcher

        if name == "regex":
            return str(LLMatcher.grammar_from_regex(str(config.regex)))
        if name == "grammar":
            return str(LLMatcher.grammar_from_lark(str(config.grammar)))
        if name == "choice":
            if any(not isinstance(text, str) or not text for text in config.choice):
                raise InputError("choice: every choice must be text of at least one character")
            return str(LLMatcher.grammar_from_regex("|".join(_literal(text) for text in config.choice)))
        schema = {"type": "object"} if name == "json_object" else parse_schema(config.json_schema)
        return self._schema_grammar(schema)

    @staticmethod
    def _schema_grammar(schema: Any) -> str:
        from llguidance import LLMatcher

        # The options go into an object, so true and false take the forms that they have there.
        text = json.dumps(schema if isinstance(schema, dict) else {} if schema else {"not": {}})
        return str(LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": SPACE}))

    def _matcher(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        return LLMatcher(self._vocabulary, grammar, log_level=0, limits=self._limits)

    @cached_property
    def _limits(self) -> LLParserLimits:
        from llguidance import LLParserLimits

        return LLParserLimits(max_lexer_states=STATES, verbose_errors=False)

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError:
            raise InputError("constraints need llguidance: pip install 'newleaf[constraints]'") from None
        if self.tokenizer.eos_id is None:
            raise InputError("constraints need an end-of-text token, which this tokenizer does not have")
        return LLTokenizer(TokenizerWrapper(_Bytes(self.tokenizer)))

    def _complaint(self, name: str, config: SamplingConfig, error: str) -> str:
        """One line from llguidance's message: the option, the place, what is wrong."""
        if name == "grammar":
            place = re.match(r"(?:at )?(\d+)\((\d+)\):\s+", error)
            what = _first_line(error[place.end() :] if place else error)
            return f"grammar, line {place[1]}, column {place[2]}: {what}" if place else f"grammar: {what}"
        if name == "json_schema":
            where = self._wrong_place(parse_schema(config.json_schema))
            return f"json_schema, at {where}: {_regex_error(error)}"
        return f"{name}{', ' if name == 'regex' else ': '}{_regex_error(error)}"

    def _wrong_place(self, schema: Any) -> str:
        """JSON pointer of the deepest subschema that is wrong by itself."""
        place, left, found = "#", SUBSCHEMAS, True
        shared = {key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema}
        while found and left > 0:
            found = False
            for step, child in _children(schema):
                left -= 1
                whole = child | shared if isinstance(child, dict) else child
                if self._matcher(self._schema_grammar(whole)).is_error():
                    place, schema, found = f"{place}/{step}", child, True
                    break
        return place


class _Bytes:
    """A tokenizer as llguidance wants it: the bytes of each id, and ids for text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        table = tokenizer.bytes_of_tokens
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = [token for token, text in enumerate(table) if not text]
        # A special token has no text, but llguidance wants a name for it.
        self.tokens = [text or f"<|special {token}|>".encode() for token, text in enumerate(table)]

    def __call__(self, text: str) -> list[int]:
        """Ids that stand for this text exactly, which what the tokenizer gives does not where it puts a space before every text."""
        ids, sought = self._tokenizer.encode(text, special_tokens=False), text.encode()
        if b"".join(self._tokenizer.token_bytes(token) for token in ids) == sought:
            return ids
        found, at = [], 0
        while at < len(sought):
            size = next((size for size in range(min(self._longest, len(sought) - at), 0, -1) if sought[at : at + size] in self._ids), 0)
            if not size:  # llguidance asks for what it can have
                break
            found.append(self._ids[sought[at : at + size]])
            at += size
        return found

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: token for token, text in enumerate(self._tokenizer.bytes_of_tokens) if text}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)


def parse_schema(schema: Any) -> Any:
    """A schema as given, or parsed from JSON text. Raises InputError with line and column."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except json.JSONDecodeError as error:
            raise InputError(f"json_schema, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    if not isinstance(schema, dict | bool):
        raise InputError(f"json_schema: must be an object, true or false, not {schema!r}")
    return schema


def _children(schema: Any) -> list[tuple[str, Any]]:
    """Subschemas with their pointers' next step."""
    if not isinstance(schema, dict):
        return []
    named = [
        (f"{key}/{name}", child)
        for key in ("properties", "patternProperties", "$defs", "definitions")
        if isinstance(schema.get(key), dict)
        for name, child in schema[key].items()
    ]
    listed = [
        (f"{key}/{number}", child)
        for key in ("anyOf", "oneOf", "allOf", "prefixItems")
        if isinstance(schema.get(key), list)
        for number, child in enumerate(schema[key])
    ]
    single = [(key, schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return named + listed + single


def _literal(text: str) -> str:
    """A regular expression for this text alone."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):X}}}" for character in text)


def _regex_error(error: str) -> str:
    """A regular expression's error with its position, which llguidance draws with a caret under the expression."""
    drawn = re.search(r"regex parse error:\n {4}(.*)\n( *)\^+", error)
    reason = re.search(r"^error: (.*)$", error, re.MULTILINE)
    if drawn and reason:
        return f"character {len(drawn[2]) - 4 + 1} of {drawn[1]!r}: {reason[1]}"
    return _first_line(error)


def _first_line(error: str) -> str:
    return error.strip().split("\n", 1)[0]
