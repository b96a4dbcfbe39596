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
    NO_TEXT_FITS,
    TOO_LARGE,
    first_line,
    grammar_error,
    regex_error,
)
from newleaf.generate.constraints.grammar_host import (
    COMPILE_SECONDS,
    GrammarHost,
    GrammarProcess,
    ProcessLostError,
)
from newleaf.generate.constraints.grammar_source import GrammarSource, grammar_source, schema_source
from newleaf.generate.constraints.grammar_vocabulary import LlguidanceTokenizer
from newleaf.generate.constraints.prepare_schema import prepare_schema
from newleaf.generate.constraints.prepared_schema import PreparedSchema, without_keyword
from newleaf.generate.constraints.schema_error import DROPPABLE, locate_error
from newleaf.generate.constraints.schema_limits import parse_schema
from newleaf.generate.options import SamplingConfig
from newleaf.text.tokenizer import Tokenizer

MAX_LEXER_STATES = 50_000  # one to two kilobytes each
MAX_REPORTS = 256  # grammars whose errors are cached
MAX_PROCESSES = 32  # grammars whose processes live at once


class GrammarCompiler:
    """Compiles grammars for one tokenizer. Its first call takes about a second for 50,000 tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        self._live: OrderedDict[GrammarSource, tuple[GrammarProcess, dict[str, Any]]] = OrderedDict()
        self._reports: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def compile(self, config: SamplingConfig) -> Constraint | None:
        """The constraint of these options, before the first token; None where they have none.

        Raises InputError with option and place for what is invalid, not supported, or beyond limits.
        """
        if not config.constraints:
            return None
        (name,) = config.constraints
        source = grammar_source(name, config)
        try:
            _, report = self.process(source)
        except ProcessLostError:
            raise InputError(f"{name}: {TOO_LARGE}") from None
        if report["error"]:
            raise InputError(self._error_message(name, config, report["error"]))
        if report["empty"]:
            what = report["empty"] if isinstance(report["empty"], str) else NO_TEXT_FITS
            raise InputError(f"{name}: {first_line(what)}")
        return Constraint(Grammar(lambda: self.process(source)[0]), report["stopped"])

    def process(self, source: GrammarSource) -> tuple[GrammarProcess | None, dict[str, Any]]:
        """The process that has compiled a grammar, and its report; no process where the grammar has an error.

        Raises LostError.
        """
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
        encoder = LlguidanceTokenizer(self.tokenizer)
        return GrammarHost(encoder.description, encoder)

    def prepare(self, schema: Any, loosen: bool = False) -> PreparedSchema:
        """A schema that compiles; `loosen` drops keywords that cannot be kept.

        Raises InputError with keyword and JSON pointer.
        """
        prepared = prepare_schema(parse_schema(schema), loosen)
        end = time.monotonic() + COMPILE_SECONDS
        while time.monotonic() < end:
            report = self._report(schema_source(prepared))
            if report is None:
                raise InputError(f"json_schema: {TOO_LARGE}")
            if not report["error"]:
                if report["empty"]:
                    raise InputError(f"json_schema: {NO_TEXT_FITS}")
                return prepared
            place, keyword, error = locate_error(prepared.schema, report["error"], self._report)
            if not loosen or keyword not in DROPPABLE:
                raise InputError(
                    f"json_schema, at {'/'.join(place)}{f'/{keyword}' if keyword else ''}: "
                    f"{regex_error(error)}"
                )
            prepared = without_keyword(prepared, place[1:], keyword)
        raise InputError(f"json_schema: {TOO_LARGE}")

    def check(self, schema: Any, value: Any) -> list[str] | None:
        """Validation errors of a value, by the jsonschema package: at most ten lines.

        None where it cannot tell, for instance within CHECK_SECONDS.
        """
        process = self._host.open()
        try:
            return process.check(schema, value)
        except ProcessLostError:
            return None
        finally:
            process.close()

    def _error_message(self, name: str, config: SamplingConfig, error: str) -> str:
        """One line from llguidance's message: option, place, error."""
        if name == "grammar":
            return grammar_error(error)
        if name == "json_schema":
            try:
                self.prepare(config.json_schema)
            except InputError as found:
                return str(found)
        return f"{name}{', ' if name == 'regex' else ': '}{regex_error(error)}"

    def _report(self, source: GrammarSource) -> dict[str, Any] | None:
        """The report on a grammar whose process is not kept; None where the process ended on it."""
        key = hashlib.sha256(source.text.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if (found := self._reports.get(key)) is not None:
                return found
            if source in self._live:
                return self._live[source][1]
        process = self._host.open()
        try:
            report = process.compile({"kind": source.kind, "text": source.text, "states": MAX_LEXER_STATES})
        except ProcessLostError:
            return None
        finally:
            process.close()
        with self._lock:
            self._reports[key] = report
            if len(self._reports) > MAX_REPORTS:
                self._reports.popitem(last=False)
        return report
