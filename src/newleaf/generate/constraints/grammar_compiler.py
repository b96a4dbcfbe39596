"""Compiles the grammar of a constraint with llguidance, in a process for each grammar."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import time
from collections import OrderedDict
from functools import cached_property
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.constraints.constraint import Constraint, Grammar
from newleaf.generate.constraints.grammar_errors import (
    NOTHING,
    TOO_MUCH,
    first_line,
    grammar_error,
    regex_error,
)
from newleaf.generate.constraints.grammar_host import COMPILE_SECONDS, GrammarHost, GrammarProcess, LostError
from newleaf.generate.constraints.grammar_source import GrammarSource, grammar_source, schema_source
from newleaf.generate.constraints.grammar_vocabulary import TokenBytes
from newleaf.generate.constraints.json_schema import Prepared, prepare, without
from newleaf.generate.constraints.schema_error import DROPPED, locate_error
from newleaf.generate.constraints.schema_limits import parse_schema
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer

MAX_LEXER_STATES = 50_000  # one to two kilobytes each
MAX_REPORTS = 256  # grammars whose errors are cached
MAX_PROCESSES = 32  # grammars whose processes live at once


class GrammarCompiler:
    """Makes constraints for one tokenizer; setting it up takes about a second for fifty thousand tokens,
    once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._live: OrderedDict[GrammarSource, tuple[GrammarProcess, dict[str, Any]]] = OrderedDict()
        self._known: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def compile(self, config: SamplingConfig) -> Constraint | None:
        """The constraint that the options ask for, at its beginning; None when they ask for none.

        Raises InputError, naming option and place, for what is not valid, not known to llguidance, or beyond
        limits.
        """
        if not config.constraints:
            return None
        (name,) = config.constraints
        source = grammar_source(name, config)
        try:
            _, report = self.process(source)
        except LostError:
            raise InputError(f"{name}: {TOO_MUCH}") from None
        if report["error"]:
            raise InputError(self._complaint(name, config, report["error"]))
        if report["empty"]:
            what = report["empty"] if isinstance(report["empty"], str) else NOTHING
            raise InputError(f"{name}: {first_line(what)}")
        return Constraint(Grammar(lambda: self.process(source)[0]), report["stopped"])

    def process(self, source: GrammarSource) -> tuple[GrammarProcess | None, dict[str, Any]]:
        """The process that has compiled a grammar, and what it said of it; None for one that cannot be used.
        Raises LostError."""
        with self._lock:
            found = self._live.get(source)
            if found is not None and not found[0].lost:
                self._live.move_to_end(source)
                return found
        process = self._host.open()
        report = process.compile({"kind": source.kind, "text": source.text, "states": MAX_LEXER_STATES})
        if report["error"] or report["empty"]:
            process.close()
            return None, report
        with self._lock:
            self._live[source] = process, report
            while len(self._live) > MAX_PROCESSES:
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
            report = self._try(schema_source(prepared))
            if report is None:
                raise InputError(f"json_schema: {TOO_MUCH}")
            if not report["error"]:
                if report["empty"]:
                    raise InputError(f"json_schema: {NOTHING}")
                return prepared
            place, keyword, error = locate_error(prepared.schema, report["error"], self._try)
            if not loosen or keyword not in DROPPED:
                raise InputError(
                    f"json_schema, at {'/'.join(place)}{f'/{keyword}' if keyword else ''}: "
                    f"{regex_error(error)}"
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
            return grammar_error(error)
        if name == "json_schema":
            try:
                self.prepare(config.json_schema)
            except InputError as found:
                return str(found)
        return f"{name}{', ' if name == 'regex' else ': '}{regex_error(error)}"

    def _try(self, source: GrammarSource) -> dict[str, Any] | None:
        """What a process says of a grammar that is not kept; None when it ends on it."""
        key = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if (found := self._known.get(key)) is not None:
                return found
            if source in self._live:
                return self._live[source][1]
        process = self._host.open()
        try:
            report = process.compile({"kind": source.kind, "text": source.text, "states": MAX_LEXER_STATES})
        except LostError:
            return None
        finally:
            process.close()
        with self._lock:
            self._known[key] = report
            if len(self._known) > MAX_REPORTS:
                self._known.popitem(last=False)
        return report
