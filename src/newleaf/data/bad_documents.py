"""What cannot be read: it stops the run, or is left out and counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from newleaf.errors import InputError


class BadDocumentError(InputError):
    """A file or row that cannot be read; `reason` is a short name to count it under, `hint` an option of
    training that may help, and `message_without_hint` the message without it."""

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.reason, self.message_without_hint = reason, message


@dataclass
class Problems:
    """Decides what a bad document means, and keeps the counts for the report."""

    on_error: Literal["stop", "skip"] = "stop"
    skipped: Counter[str] = field(default_factory=Counter)
    first: str | None = None
    encodings: dict[str, str] = field(default_factory=dict)  # of files whose encoding was guessed

    def encoding_detected(self, name: str, encoding: str) -> None:
        """A file is not UTF-8, and seems to be in this encoding."""
        self.encodings[name] = encoding

    def bad(self, problem: BadDocumentError) -> None:
        """Raises the problem, or counts it where the user said to skip."""
        if self.on_error == "stop":
            hint = "" if "on_error" in str(problem) else "; --data.on_error skip leaves such text out"
            raise BadDocumentError(problem.reason, f"{problem}{hint}") from problem
        self.skipped[problem.reason] += 1
        self.first = self.first or str(problem)
