"""The words of a command line in any order: which are options, which are their values, and which are neither.

argparse takes what is no option from the places where it first finds some, so that an option in the middle
cuts a command in two. Here the words are sorted first: options with their values, recipe options
(`--section.field value`), and the rest.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as fresh
from typing import Any, NoReturn

from newleaf.cli.help_format import HelpFormatter
from newleaf.cli.recipe_options import SWITCH, field_named, is_switch
from newleaf.errors import InputError

MAY_BE_EMPTY = ("prompt", "text", "negative_prompt", "system", "stop", "choice", "regex")  # texts
NUMBER = re.compile(r"-\d+$|-\d*\.\d+$")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and helps within the terminal's width."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **{"formatter_class": HelpFormatter} | settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


class Repeated(argparse.Action):
    """An option of one value that may be given several times. Several values after one are taken too, before
    another option."""

    def __init__(self, *names: Any, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.several = True

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), values])


@dataclass
class Sorted:
    """Words as they were sorted. `options` are argparse's, each value joined to its name; `recipe` are
    `--section.field` and values; `notes` are what to tell the user."""

    options: list[str] = fresh(default_factory=list)
    recipe: list[str] = fresh(default_factory=list)
    rest: list[str] = fresh(default_factory=list)
    notes: list[str] = fresh(default_factory=list)


def sort_words(parser: argparse.ArgumentParser, words: Sequence[str]) -> Sorted:
    """Sort a command's words. Raises InputError, with the nearest name, for an option that does not exist."""
    takes_recipe = bool(parser.get_default("takes_recipe"))
    found, at = Sorted(), 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            found.rest += words[at:]
            break
        if not _is_option(word):
            found.rest.append(word)
            continue
        name, joined, value = word.partition("=")
        if takes_recipe and name.startswith("--") and "." in name:
            at = _take_recipe(found, words, at, bool(joined), str(parser.get_default("name")))
            continue
        action = _action(parser, name)
        flag = action.option_strings[-1]
        if joined:
            found.options.append(f"{flag}={value}")
            continue
        at = _take_values(found, action, flag, words, at)
    return found


def refuse_empty(parser: argparse.ArgumentParser, found: Sorted, parsed: argparse.Namespace) -> None:
    """Raises InputError for an empty name of a model, file or the like, as a shell's unset variable leaves
    it: a path takes it for the folder we are in."""
    for action in parser._actions:
        values = getattr(parsed, action.dest, None)
        if (
            action.option_strings
            or action.dest in MAY_BE_EMPTY
            or "" not in (values if isinstance(values, list) else [values])
        ):
            continue
        raise InputError(
            f"{str(action.metavar or action.dest).upper()}: it is empty, where a name is wanted: "
            f"{action.help}"
        )
    flag = ""
    for word in found.options:
        name, joined, value = word.partition("=")
        flag = name if name.startswith("--") else flag  # several values of one option are words of their own
        if (
            (joined or not word)
            and not value
            and parser._option_string_actions[flag].dest not in MAY_BE_EMPTY
        ):
            raise InputError(f"{flag}: its value is empty; give one, or leave {flag} out")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where something like it is known."""
    plain = {each.lstrip("-"): each for each in known}
    near = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), list(plain), n=1, cutoff=0.55)
    return f"; did you mean {plain[near[0]]}?" if near else ""


def _is_option(word: str) -> bool:
    return (
        len(word) > 1
        and word.startswith("-")
        and not NUMBER.match(word)
        and " " not in word.partition("=")[0]
    )


def _take_recipe(found: Sorted, words: Sequence[str], at: int, joined: bool, command: str) -> int:
    """A field that is true or false may stand alone: the word behind it is a source or a model unless it says
    which."""
    name = words[at - 1]
    found.recipe.append(name)
    if joined or at == len(words) or words[at].startswith("--"):
        return at
    if words[at].lower() not in SWITCH and is_switch(command, name[2:].replace("-", "_")):
        found.recipe[-1] = f"{name}=true"
        return at
    found.recipe.append(words[at])
    return at + 1


def _action(parser: argparse.ArgumentParser, name: str) -> argparse.Action:
    known = parser._option_string_actions
    if name in known:
        return known[name]
    begun = {
        id(action): action
        for flag, action in known.items()
        if name.startswith("--") and flag.startswith(name)
    }
    if len(begun) == 1:
        return next(iter(begun.values()))
    if begun:
        could_be = ", ".join(sorted(flag for flag in known if flag.startswith(name)))
        raise InputError(f"{name}: could be {could_be}; see {parser.prog} --help")
    near = nearest(name, [flag for flag in known if flag.startswith("--")])
    if parser.get_default("takes_recipe"):
        field = field_named(str(parser.get_default("name")), name.lstrip("-").replace("-", "_"))
        near = f"; did you mean --{field}?" if field is not None else near
    raise InputError(f"{name}: no such option for {parser.prog}{near or f'; see {parser.prog} --help'}")


def _take_values(found: Sorted, action: argparse.Action, flag: str, words: Sequence[str], at: int) -> int:
    """Put the option with its value, or its values, where it belongs; returns where the next word is."""
    if action.nargs == 0:
        found.options.append(flag)
        return at
    end = at
    while end < len(words) and not _is_option(words[end]):
        end += 1
    if action.nargs in ("*", "+"):
        found.options += [flag, *words[at:end]]
        return end
    if end == at:  # argparse says that a value is missing
        found.options.append(flag)
        return at
    if getattr(action, "several", False) and end - at > 1 and end < len(words) and words[end] != "--":
        found.options += [f"{flag}={value}" for value in words[at:end]]
        found.notes.append(
            f"{flag} takes one text and is repeated for another: "
            f"{' '.join(f'{flag} …' for _ in words[at:end])}"
        )
        return end
    found.options.append(f"{flag}={words[at]}")
    return at + 1
