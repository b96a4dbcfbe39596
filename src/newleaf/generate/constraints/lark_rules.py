"""Rules of a Lark grammar: each expression gets one rule, under a name with a common prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from json import dumps
from typing import Any

NAME_CHARACTER = r'[^"\\\x00-\x1F\x7F]|\\["\\bfnrt]'  # of names that are not listed: each has one spelling


class LarkRules:
    """The rules of one grammar; their names begin with `name`. `options` are llguidance's, for `%json`."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self._name, self._options = name, options
        self._rules: list[str] = []
        self._known: dict[str, str] = {}  # an expression → the name of its rule
        self._count = 0
        self.length = 0  # characters of all expressions
        self.space = f"{name}_space?"
        self.comma = f'{self.space} "," {self.space}'
        self.colon = f'{self.space} ":" {self.space}'

    def text(self, start: str) -> str:
        """All rules; the first one, `name`, is of expression `start`."""
        space = f"{self.space[:-1]}: /{self._options['whitespace_pattern']}/"
        return "\n".join([f"{self._name}: {start}", *self._rules, space])

    def define(self, name: str, expression: str) -> None:
        """Add a rule under a name from `new_name`."""
        self._rules.append(f"{name}: {expression}")

    def json(self, schema: dict[str, Any]) -> str:
        """A rule that llguidance makes of a schema."""
        return self.rule(f"%json {dumps({**schema, 'x-guidance': self._options})}")

    def union(self, alternatives: Iterable[str]) -> str:
        """One of these expressions."""
        found = list(alternatives)
        return found[0] if len(found) == 1 else self.rule(" | ".join(found))

    def group(self, begin: str, inner: str, end: str) -> str:
        """An expression between brackets."""
        return self.rule(f"{quote(begin)} {self.space} {inner} {self.space if inner else ''} {quote(end)}")

    def rule(self, expression: str, terminal: bool = False) -> str:
        """The name of the rule of this expression."""
        if expression not in self._known:
            name = self.new_name()
            self._known[expression] = name.upper() if terminal else name
            self._rules.append(f"{self._known[expression]}: {expression}")
            self.length += len(expression)
        return self._known[expression]

    def new_name(self) -> str:
        """A rule's name that is not taken."""
        self._count += 1
        return f"{self._name}_{self._count}"


def quote(text: str) -> str:
    """A string literal of Lark."""
    return dumps(text)


def json_text(value: Any) -> str:
    """JSON as llguidance writes it: no escape where none is needed."""
    written = dumps(value, ensure_ascii=False)
    return dumps(value) if any("\ud800" <= character <= "\udfff" for character in written) else written


def other_names(names: Sequence[str]) -> str:
    """A terminal that matches names of an object, except these."""
    taken = "|".join(
        "".join(c if c.isalnum() else f"\\x{{{ord(c):X}}}" for c in json_text(name)[1:-1]) for name in names
    )
    return f'/"({NAME_CHARACTER})*"/' + (f' & ~/"({taken})"/' if names else "")
