"""A constraint: which tokens may follow in one text, so that the text fits its grammar."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from newleaf.generate.constraints.grammar_errors import PROCESS_ENDED, first_line
from newleaf.generate.constraints.grammar_host import GrammarProcess, ProcessLostError
from newleaf.generate.constraints.grammar_process import ERROR, STOPPED

Answer = TypeVar("Answer")


class Constraint:
    """Which tokens may follow in one text, by the tokens that it has so far."""

    def __init__(self, grammar: Grammar, stopped: bool, tokens: Sequence[int] = ()) -> None:
        self._grammar, self._tokens = grammar, list(tokens)
        self._matcher: Matcher | None = None
        self.complete = stopped  # whether the text is valid, and only its end may follow
        self.problem = ""  # the error, in one line; no token may follow then

    def allowed(self, size: int) -> Tensor:
        """Which ids may follow: bool [size]. None may after an error, which `problem` describes."""
        flags = np.zeros(size, dtype=np.bool_)  # NumPy, since PyTorch would wake its threads for this
        mask = self._ask(lambda matcher: matcher.process.mask(matcher.number), b"\0")[1:]
        if mask:
            found = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")[:size]
            flags[: len(found)] = found.view(np.bool_)
        return torch.from_numpy(flags)

    def take(self, token: int) -> None:
        """Append a token."""
        state = self._ask(lambda matcher: matcher.process.take(matcher.number, [token]), bytes([ERROR]))
        self._tokens.append(token)
        self.complete = state[0] & (STOPPED | ERROR) == STOPPED
        if state[0] & ERROR:
            self.problem = self.problem or first_line(state[1:].decode("utf-8", "replace"))

    def fitting(self, tokens: Sequence[int]) -> int:
        """How many of these tokens may follow, counted from the first."""
        return self._ask(lambda matcher: matcher.process.fitting(matcher.number, tokens), 0)

    def fork(self) -> Constraint:
        """The same state, for a text that continues on its own."""
        other = Constraint(self._grammar, self.complete, self._tokens)
        other.problem = self.problem
        if self._matcher is not None and not self._matcher.process.lost:
            with contextlib.suppress(ProcessLostError):
                other._matcher = Matcher(
                    self._matcher.process, self._matcher.process.fork(self._matcher.number)
                )
        return other

    def _ask(self, question: Callable[[Matcher], Answer], otherwise: Answer) -> Answer:
        """The answer of the grammar's process; `otherwise` when the process fails."""
        while not self.problem:
            try:
                if self._matcher is None or self._matcher.process.lost:
                    self._matcher = self._grammar.matcher(self._tokens)
                return question(self._matcher)
            except ProcessLostError:
                if self._matcher is None or not self._matcher.process.retired:
                    self.problem = PROCESS_ENDED
        return otherwise


class Matcher:
    """The state of one text in a grammar's process."""

    def __init__(self, process: GrammarProcess, number: int) -> None:
        self.process, self.number = process, number
        weakref.finalize(self, process.drop, number)


class Grammar:
    """A grammar that compiles. Its process may end while no text uses it; `process` starts another then."""

    def __init__(self, process: Callable[[], GrammarProcess | None]) -> None:
        self._process = process

    def matcher(self, tokens: Sequence[int]) -> Matcher:
        """The state of a text that has these tokens. Raises LostError."""
        process = self._process()
        if process is None:
            raise ProcessLostError
        return Matcher(process, process.fork(0, tokens))
