"""Recipe options on the command line: `--section.field value` for everything that a recipe can say."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from newleaf.errors import InputError

SWITCH = ("true", "false", "yes", "no", "on", "off", "1", "0")


def dotted(words: list[str]) -> dict[str, Any]:
    """`--data.limit 3 --data.field=title --data.document_mask` as a flat dictionary; a name alone is true."""
    values: dict[str, Any] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("--") or "." not in word.split("=")[0]:
            raise InputError(f"{word}: no such option; recipe options look like --data.limit 1000")
        name, given, value = word[2:].partition("=")
        at += 1
        if not given:
            takes_next = at < len(words) and not words[at].startswith("--")
            value = words[at] if takes_next else "true"
            at += takes_next
        values[name.replace("-", "_")] = value
    return values


def recipe_fields(command: str) -> dict[str, Any]:
    """Every field of the command's recipes with its type, as `optimizer.learning_rate`. Imports PyTorch."""
    if command == "finetune":
        from newleaf.tune.task_names import TASKS
        from newleaf.tune.tuning_task import task_named

        classes: list[type[Any]] = [task_named(name).config for name in TASKS]
    else:
        from newleaf.train.objective.train_config import PretrainConfig

        classes = [PretrainConfig]
    found: dict[str, Any] = {}
    for each in classes:
        found |= _fields(each, "")
    return found


def is_switch(command: str, name: str) -> bool:
    """Whether this field is true or false, so that its name may stand alone before any word."""
    return recipe_fields(command).get(name) is bool


def field_named(command: str, name: str) -> str | None:
    """The one field whose last name is this, such as `optimizer.learning_rate` for `learning_rate`."""
    found = [each for each in recipe_fields(command) if each.rpartition(".")[2] == name and "." in each]
    return found[0] if len(found) == 1 else None


def _fields(cls: type[Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        inner = next((each for each in _options(hint) if dataclasses.is_dataclass(each)), None)
        found |= _fields(inner, f"{where}{name}.") if isinstance(inner, type) else {f"{where}{name}": hint}
    return found


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
