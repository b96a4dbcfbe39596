"""Recipes: YAML and `--section.field value` into frozen dataclasses, with errors that name the key and offer
the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import reprlib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from newleaf.errors import InputError
from newleaf.untrusted import parse_yaml, read_text

T = TypeVar("T")
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
MAX_INTEGER = 2.0**63  # no option counts further, and no library would take it
SUFFIXES = {"k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}


def read_recipe(path: Path) -> dict[str, Any]:
    """A YAML recipe as nested dictionaries. Raises InputError with file and line."""
    if not path.exists():
        raise InputError(f"{path}: no such recipe")
    values = parse_yaml(path, read_text(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: a recipe is a mapping of sections, as in recipes/")
    return values


def recipe_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run.yaml as a recipe that gives the same run: without its `record`, and with what did not exist when
    older ones were written."""
    recipe = {name: value for name, value in values.items() if name != "record"}
    tokenizer = recipe.get("tokenizer")
    if "record" in values and isinstance(tokenizer, Mapping):
        recipe["tokenizer"] = {"characters": False, **tokenizer}
    return recipe


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries laid over one another, the last on top."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = merged.get(key)
            merged[key] = (
                merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
            )
    return merged


def nest(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """`{"data.limit": 3}` as `{"data": {"limit": 3}}`."""
    return merge(
        *(
            {key: value} if "." not in key else {key.split(".", 1)[0]: nest({key.split(".", 1)[1]: value})}
            for key, value in dotted.items()
        )
    )


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """A dataclass from nested values, text converted to each field's type.

    Raises InputError naming the key.
    """
    fields = convert_fields(cls, values, where)
    try:
        return cls(**fields)
    except TypeError as error:
        raise InputError(f"{where.rstrip('.') or 'configuration'}: {error}") from None
    except ValueError as error:
        text = str(error)
        raise InputError(text if text.startswith(where) else where + text) from None


def convert_fields(cls: type[Any], values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """These values in the types that the dataclass's fields have; names are checked too."""
    hints = get_type_hints(cls)
    check_names(values, [field.name for field in dataclasses.fields(cls)], where)
    return {name: _convert(hints[name], value, f"{where}{name}") for name, value in values.items()}


def check_names(values: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raises InputError for a name that is not known, offering the nearest that is."""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1)
            raise InputError(
                f"{where}{name}: no such option" + (f"; did you mean {where}{near[0]}?" if near else "")
            )


def seconds(text: str | float) -> float:
    """A duration: `90`, `90s`, `3m`, `1h30m`. Raises ValueError."""
    if (isinstance(text, int | float) and not isinstance(text, bool)) or re.fullmatch(
        r"\d+(\.\d+)?", str(text)
    ):
        total = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?[smhd])+", str(text)):
        total = sum(
            float(number) * UNITS[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([smhd])", str(text))
        )
    else:
        raise ValueError(f"{text!r} is not a duration such as 90s, 3m or 1h30m")
    if not 0 < total < float("inf"):
        raise ValueError(f"{text!r} is not a duration above 0")
    return total


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{key}: is a section of options, not {_short(value)}")
        return build(hint, value, f"{key}.")  # type: ignore[arg-type]
    origin: Any = get_origin(hint)
    inner = get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None or (
            isinstance(value, str) and value.lower() in ("none", "null") and type(None) in inner
        ):
            if type(None) in inner:
                return None
            raise InputError(f"{key}: must have a value")
        return _convert_any([option for option in inner if option is not type(None)], value, key)
    if origin is Literal:
        if value not in inner:
            raise InputError(f"{key}: {_short(value)} is not one of {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        items = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        return tuple(_convert(inner[0], item, key) for item in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{key}: is a section of options, not {_short(value)}")
        return dict(value)
    return _scalar(hint, value, key)


def _convert_any(options: list[Any], value: Any, key: str) -> Any:
    """The first of several types that takes the value, tuples before plain text so that lists stay lists."""
    if isinstance(value, list | tuple):
        options = [option for option in options if _takes_list(option)]
        if not options:
            raise InputError(f"{key}: takes one value, not a list")
    else:
        options = sorted(options, key=_takes_list)
    for number, option in enumerate(options):
        try:
            return _convert(option, value, key)
        except InputError:
            if number == len(options) - 1:
                raise
    raise InputError(f"{key}: cannot take {_short(value)}")


def _takes_list(hint: Any) -> bool:
    origin: Any = get_origin(hint)
    return origin is tuple


def _scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is bool:
        text = str(value).lower()
        if text in ("true", "yes", "on", "1"):
            return True
        if text in ("false", "no", "off", "0"):
            return False
        raise InputError(f"{key}: must be true or false, not {_short(value)}")
    if hint is int:
        return _integer(value, key)
    if hint is float:
        try:
            number = float(value)  # YAML reads 1e-3 as text
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(f"{key}: must be a number, not {_short(value)}")
        return number
    if hint is str:
        if isinstance(value, Mapping | list | tuple | set | bytes) or value is None:
            raise InputError(f"{key}: must be text, not {_short(value)}")
        return str(value)
    return value


def _integer(value: Any, key: str) -> int:
    """A whole number, also as 20k, 3m or 1e6."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmbg])", str(value).lower())
    try:
        number = float(match[1]) * SUFFIXES[match[2]] if match else float(str(value).replace("_", ""))
    except (ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, bool) or not number.is_integer():
        raise InputError(f"{key}: must be a whole number, not {_short(value)}")
    if abs(number) >= MAX_INTEGER:
        raise InputError(f"{key}: {_short(value)} is too large; whole numbers are below 2**63")
    return value if type(value) is int else int(number)


def _short(value: Any) -> str:
    """Its beginning: what stands in a file may be long, or hold itself."""
    return reprlib.repr(value)


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as what YAML and JSON hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
