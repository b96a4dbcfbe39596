"""Constraints: which tokens may follow so that the text fits a JSON Schema, a regular expression, a Lark
grammar or a list.

By llguidance, in a process for each grammar.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.generate.constraints.grammar_host import COMPILE_SECONDS, GrammarHost, GrammarProcess, LostError
from newleaf.generate.constraints.grammar_process import ERROR, STOPPED
from newleaf.generate.constraints.grammar_vocabulary import TokenBytes
from newleaf.generate.constraints.json_schema import Prepared, prepare, without
from newleaf.generate.constraints.schema_limits import check_length, parse_schema
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer

SUBSCHEMAS = 200  # at most so many are tried to find the one that is wrong
STATES = 50_000  # of the lexer; one to two kilobytes each
REGEX = 1 << 20  # characters of a regular expression
TOO_MUCH = (
    f"the grammar library ended on it, or was not done after {COMPILE_SECONDS:g} seconds; make it smaller"
)
NOTHING = "no text fits it"
LOST = "the grammar library stopped working on it"
# Keywords that llguidance keeps in some schemas and not in others.
DROPPED = ("pattern", "oneOf", "patternProperties", "minProperties", "maxProperties", "multipleOf", "allOf")
KNOWN = 256  # grammars of which it is remembered what is wrong with them
KEPT = 32  # grammars whose processes are kept for texts to come, and at most so many live at once


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Request:
    """A grammar as its process is given it: "json_schema" (JSON text), "regex" or "lark"."""

    kind: str
    text: str


class Constraint:
    """Where one text stands in its grammar."""

    def __init__(self, grammar: Grammar, stopped: bool, tokens: Sequence[int] = ()) -> None:
        self._grammar, self._tokens = grammar, list(tokens)
        self._place: Place | None = None
        self.complete = stopped  # whether the text fits, and nothing but its end may follow
        self.problem = ""  # what went wrong on the way, in one line

    def allowed(self, size: int) -> Tensor:
        """Which ids may follow: bool [size]. None may where llguidance's limits were reached, or its process
        ended."""
        flags = np.zeros(size, dtype=np.bool_)  # by NumPy: PyTorch would wake its threads for this
        mask = self._ask(lambda place: place.process.mask(place.number), b"\0")[1:]
        if mask:
            found = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:size]
            flags[: len(found)] = found.view(np.bool_)
        return torch.from_numpy(flags)

    def take(self, token: int) -> None:
        """A token was written."""
        state = self._ask(lambda place: place.process.take(place.number, [token]), bytes([ERROR]))
        self._tokens.append(token)
        self.complete = state[0] & (STOPPED | ERROR) == STOPPED
        if state[0] & ERROR:
            self.problem = self.problem or _first_line(state[1:].decode("utf-8", "replace"))

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, the first ones, may follow one after the other."""
        return self._ask(lambda place: place.process.fitting(place.number, tokens), 0)

    def fork(self) -> Constraint:
        """The same place, for a text that goes on by itself."""
        other = Constraint(self._grammar, self.complete, self._tokens)
        other.problem = self.problem
        if self._place is not None and not self._place.process.lost:
            with contextlib.suppress(LostError):
                other._place = Place(self._place.process, self._place.process.fork(self._place.number))
        return other

    def _ask(self, question: Callable[[Place], Answer], otherwise: Answer) -> Answer:
        """An answer of the grammar's process; `otherwise` when it ends on the question."""
        while not self.problem:
            try:
                if self._place is None or self._place.process.lost:
                    self._place = self._grammar.enter(self._tokens)
                return question(self._place)
            except LostError:
                if self._place is None or not self._place.process.retired:
                    self.problem = LOST
        return otherwise


class Place:
    """One text's matcher in a process."""

    def __init__(self, process: GrammarProcess, number: int) -> None:
        self.process, self.number = process, number
        weakref.finalize(self, process.drop, number)


class Grammar:
    """A grammar that compiles. Its process may be ended while nobody writes by it; then the next text starts
    another."""

    def __init__(self, owner: Grammars, request: Request) -> None:
        self._owner, self._request = owner, request

    def enter(self, tokens: Sequence[int]) -> Place:
        """A text's place after these tokens. Raises LostError."""
        process, _ = self._owner.process(self._request)
        if process is None:
            raise LostError
        return Place(process, process.fork(0, tokens))


class Grammars:
    """Makes constraints for one tokenizer; setting it up takes about a second for fifty thousand tokens,
    once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._live: OrderedDict[Request, tuple[GrammarProcess, dict[str, Any]]] = OrderedDict()
        self._known: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def compile(self, config: SamplingConfig) -> Constraint | None:
        """The constraint that the options ask for, at its beginning; None when they ask for none.

        Raises InputError, naming option and place, for what is not valid, not known to llguidance, or beyond
        limits.
        """
        if not config.constraints:
            return None
        (name,) = config.constraints
        request = _request(name, config)
        try:
            _, report = self.process(request)
        except LostError:
            raise InputError(f"{name}: {TOO_MUCH}") from None
        if report["error"]:
            raise InputError(self._complaint(name, config, report["error"]))
        if report["empty"]:
            what = report["empty"] if isinstance(report["empty"], str) else NOTHING
            raise InputError(f"{name}: {_first_line(what)}")
        return Constraint(Grammar(self, request), report["stopped"])

    def process(self, request: Request) -> tuple[GrammarProcess | None, dict[str, Any]]:
        """The process that has compiled a grammar, and what it said of it; None for one that cannot be used.
        Raises LostError."""
        with self._lock:
            found = self._live.get(request)
            if found is not None and not found[0].lost:
                self._live.move_to_end(request)
                return found
        process = self._host.open()
        report = process.compile({"kind": request.kind, "text": request.text, "states": STATES})
        if report["error"] or report["empty"]:
            process.close()
            return None, report
        with self._lock:
            self._live[request] = process, report
            while len(self._live) > KEPT:
                self._live.popitem(last=False)[1][0].retire()
        return process, report

    @cached_property
    def _host(self) -> GrammarHost:
        if importlib.util.find_spec("llguidance") is None:
            raise InputError("constraints need llguidance: pip install 'newleaf[constraints]'")
        if self.tokenizer.eos_id is None:
            raise InputError("constraints need an end-of-text token, which this tokenizer does not have")
        encoder = TokenBytes(self.tokenizer)
        return GrammarHost(encoder.description, encoder)

    def prepare(self, schema: Any, loosen: bool = False) -> Prepared:
        """A schema that compiles: the given one, or where it cannot be kept and that is to `loosen` it,
        without these keywords.

        Raises InputError with keyword and JSON pointer.
        """
        prepared = prepare(parse_schema(schema), loosen)
        end = time.monotonic() + COMPILE_SECONDS
        while time.monotonic() < end:
            report = self._tried(_schema_request(prepared))
            if report is None:
                raise InputError(f"json_schema: {TOO_MUCH}")
            if not report["error"]:
                if report["empty"]:
                    raise InputError(f"json_schema: {NOTHING}")
                return prepared
            place, keyword, error = self._wrong_place(prepared.schema, report["error"])
            if not loosen or keyword not in DROPPED:
                raise InputError(
                    f"json_schema, at {'/'.join(place)}{f'/{keyword}' if keyword else ''}: "
                    f"{_regex_error(error)}"
                )
            prepared = without(prepared, place[1:], keyword)
        raise InputError(f"json_schema: {TOO_MUCH}")

    def check(self, schema: Any, value: Any) -> list[str] | None:
        """Where a value does not fit a schema, by the jsonschema package: at most ten lines. None where that
        cannot be said, for instance in CHECK_SECONDS."""
        process = self._host.open()
        try:
            return process.check(schema, value)
        except LostError:
            return None
        finally:
            process.close()

    def _complaint(self, name: str, config: SamplingConfig, error: str) -> str:
        """One line from llguidance's message: the option, the place, what is wrong."""
        if name == "grammar":
            place = re.match(r"(?:at )?(\d+)\((\d+)\):\s+", error)
            what = _first_line(error[place.end() :] if place else error)
            return f"grammar, line {place[1]}, column {place[2]}: {what}" if place else f"grammar: {what}"
        if name == "json_schema":
            try:
                self.prepare(config.json_schema)
            except InputError as found:
                return str(found)
        return f"{name}{', ' if name == 'regex' else ': '}{_regex_error(error)}"

    def _wrong_place(self, schema: Any, error: str) -> tuple[list[str], str | None, str]:
        """The deepest subschema that is wrong by itself, as steps of a JSON pointer; which of its keywords
        is, and why."""
        place, left, found, end = ["#"], SUBSCHEMAS, True, time.monotonic() + COMPILE_SECONDS
        shared = {
            key: schema[key] for key in ("$defs", "definitions") if isinstance(schema, dict) and key in schema
        }
        while found and left > 0 and time.monotonic() < end:
            found = False
            for steps, child in _children(schema):
                left -= 1
                if (wrong := self._error(child, shared)) is not None:
                    place, schema, error, found = [*place, *steps], child, wrong, True
                    break
        # A schema without its type takes values of other types, so that says least about what is wrong.
        words = (
            sorted(schema, key=lambda word: (word not in DROPPED, word == "type"))
            if isinstance(schema, dict)
            else []
        )
        for word in words[:SUBSCHEMAS]:
            if time.monotonic() > end:
                break
            if (
                word not in ("$defs", "definitions")
                and self._error({k: v for k, v in schema.items() if k != word}, shared) is None
            ):
                return place, word, error
        return place, None, error

    def _error(self, schema: Any, shared: dict[str, Any]) -> str | None:
        """What is wrong with a subschema by itself."""
        report = self._tried(
            _schema_request(Prepared(shared | schema if isinstance(schema, dict) else schema))
        )
        return TOO_MUCH if report is None else report["error"] or None

    def _tried(self, request: Request) -> dict[str, Any] | None:
        """What a process says of a grammar that is not kept; None when it ends on it."""
        key = hashlib.sha256(request.text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if (found := self._known.get(key)) is not None:
                return found
            if request in self._live:
                return self._live[request][1]
        process = self._host.open()
        try:
            report = process.compile({"kind": request.kind, "text": request.text, "states": STATES})
        except LostError:
            return None
        finally:
            process.close()
        with self._lock:
            self._known[key] = report
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return report


def _request(name: str, config: SamplingConfig) -> Request:
    if name == "regex":
        check_length(str(config.regex), name, REGEX)
        return Request("regex", str(config.regex))
    if name == "grammar":
        check_length(str(config.grammar), name)
        return Request("lark", str(config.grammar))
    if name == "choice":
        if any(not isinstance(text, str) or not text for text in config.choice):
            raise InputError("choice: every choice must be text of at least one character")
        check_length("".join(config.choice), name)
        return Request("regex", "|".join(_literal(text) for text in config.choice))
    return _schema_request(
        prepare({"type": "object"} if name == "json_object" else parse_schema(config.json_schema))
    )


def _schema_request(prepared: Prepared) -> Request:
    return (
        Request("lark", prepared.rules("start"))
        if prepared.written
        else Request("json_schema", prepared.text())
    )


def _children(schema: Any) -> list[tuple[list[str], Any]]:
    """Subschemas with their pointers' next steps."""
    if not isinstance(schema, dict):
        return []
    named = [
        ([key, name.replace("~", "~0").replace("/", "~1")], child)
        for key in ("properties", "patternProperties", "$defs", "definitions")
        if isinstance(schema.get(key), dict)
        for name, child in schema[key].items()
    ]
    listed = [
        ([key, str(number)], child)
        for key in ("anyOf", "oneOf", "allOf", "prefixItems", "items")
        if isinstance(schema.get(key), list)
        for number, child in enumerate(schema[key])
    ]
    single = [
        ([key], schema[key]) for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    ]
    return named + listed + single


def _literal(text: str) -> str:
    """A regular expression for this text alone."""
    return "".join(character if character.isalnum() else f"\\x{{{ord(character):X}}}" for character in text)


def _regex_error(error: str) -> str:
    """A regular expression's error with its position, which llguidance draws with a caret under the
    expression."""
    drawn = re.search(r"regex parse error:\n {4}(.*)\n( *)\^+", error)
    reason = re.search(r"^error: (.*)$", error, re.MULTILINE)
    if drawn and reason:
        return f"character {len(drawn[2]) - 4 + 1} of {drawn[1]!r}: {reason[1]}"
    return _first_line(error)


def _first_line(error: str) -> str:
    """What llguidance says, in a line for people."""
    line = error.strip().split("\n", 1)[0]
    if "NoExtensionBias" in line or "Regex is empty" in line or line == 'Unimplemented keys: ["not"]':
        return NOTHING  # what is left of `not` is {"not": {}}
    before, unsatisfiable, why = line.partition("Unsatisfiable schema: ")
    return (
        f"{NOTHING}: {why}" if unsatisfiable and before in ("", "failed to compile JSON schema: ") else line
    )
