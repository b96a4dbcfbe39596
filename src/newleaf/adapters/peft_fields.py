"""The fields of peft's adapter_config.json: which are honoured, what each may be, and what they say of a
layer."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from newleaf.errors import InputError

LARGEST = 1e9  # of a rank or a scale
FLAGS = ("use_rslora", "use_dora", "fan_in_fan_out")
REPEATS = "*+{"  # of a regular expression
MOST_PATTERNS = 2000  # a network of 126 layers has 882 names of layers
MOST_REPEATING = 100

# What the fields of adapter_config.json that change numbers may be; the rest say how it was trained, or for
# whom.
ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "bias": ("none",), "lora_bias": (False,), "layer_replication": ([],),
    "trainable_token_indices": ([], {}), "use_qalora": (False,), "use_bdlora": (False,),
    "alora_invocation_tokens": ([],), "arrow_config": ({},), "kasa_config": ({},), "velora_config": ({},),
    "monteclora_config": ({},), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # fmt: skip


def check_about(about: Mapping[str, Any]) -> None:
    """Raises InputError for a field of adapter_config.json that newleaf does not honour, by its name."""
    if "peft_type" not in about:
        raise InputError("adapter_config.json has no peft_type")
    for name, allowed in ONLY.items():
        value = about.get(name)
        if value is not None and not any(
            value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed
        ):
            known = ", ".join(str(each) for each in allowed if each not in ([], {})) or "nothing"
            raise InputError(
                f"adapter_config.json has {name} = {str(value)[:60]}, and newleaf honours {known} there"
            )
    _check_values(about)


def _check_values(about: Mapping[str, Any]) -> None:
    """Fields whose values are used: each of its type, so that nothing fails on it later."""
    for name in ("r", "lora_alpha"):
        if not _number(about.get(name)) or about[name] <= 0:
            raise InputError(
                f"adapter_config.json has {name} = {str(about.get(name))[:60]}; it must be a number above 0"
            )
    dropout = about.get("lora_dropout") or 0.0
    if not _number(dropout) or not 0 <= dropout < 1:
        raise InputError(
            f"adapter_config.json has lora_dropout = {str(dropout)[:60]}; it must be a number from 0 to "
            f"below 1"
        )
    for name in FLAGS:
        if about.get(name) is not None and not isinstance(about[name], bool):
            raise InputError(
                f"adapter_config.json has {name} = {str(about[name])[:60]}; it must be true or false"
            )
    for name in ("alpha_pattern", "rank_pattern"):
        _check_patterns(name, about.get(name) or {})
    base = about.get("base_model_name_or_path")
    if base is not None and not (isinstance(base, str) and _is_path(base)):
        raise InputError(
            f"adapter_config.json has base_model_name_or_path = {ascii(base)[:60]}; it must be a path or a "
            f"name"
        )
    for name in ("target_modules", "target_parameters", "modules_to_save"):
        found = about.get(name) or []
        if not isinstance(found, str) and not (
            isinstance(found, list) and all(isinstance(each, str) for each in found)
        ):
            raise InputError(
                f"adapter_config.json has {name} = {str(found)[:60]}; it must be a list of names"
            )


def _number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) < LARGEST
    )


def _is_path(text: str) -> bool:
    """Whether a file system can be asked for it."""
    return (
        len(text) < 4096
        and text.isprintable()
        and all(len(part.encode("utf-8")) <= 255 for part in text.split("/"))
    )


def _check_patterns(name: str, found: Any) -> None:
    if not isinstance(found, dict) or not all(_number(value) for value in found.values()):
        raise InputError(
            f"adapter_config.json has {name} = {str(found)[:60]}; it must be an object of numbers"
        )
    repeating = sum(any(sign in pattern for sign in REPEATS) for pattern in found)
    for count, most, what in (
        (len(found), MOST_PATTERNS, "patterns"),
        (repeating, MOST_REPEATING, "patterns with repetitions"),
    ):
        if count > most:
            raise InputError(
                f"adapter_config.json has {count:,} {what} in {name}, and newleaf reads at most {most:,}"
            )
    for pattern in found:
        _check_pattern(pattern)


def _check_pattern(pattern: str) -> None:
    """A regular expression of strangers, which may take for ever to match: groups and many repetitions are
    refused."""
    if len(pattern) > 500 or "(" in pattern or sum(pattern.count(sign) for sign in REPEATS) > 3:
        raise InputError(
            f"adapter_config.json has the pattern {pattern[:60]!r}; newleaf reads names, with at most three "
            f"repetitions"
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError) as error:
        raise InputError(
            f"adapter_config.json has the pattern {pattern[:60]!r}, which is no regular expression ({error})"
        ) from None


def scale_of(about: Mapping[str, Any], layer: str, rank: int) -> float:
    """What B · A of this layer is multiplied by."""
    return float(
        _of_layer(about, "alpha_pattern", "lora_alpha", layer)
        / (rank**0.5 if about.get("use_rslora") else rank)
    )


def check_rank(about: Mapping[str, Any], layer: str, rank: int) -> None:
    """Raises InputError where the tensors of a layer have another rank than adapter_config.json says, as peft
    does."""
    wanted = _of_layer(about, "rank_pattern", "r", layer)
    if rank != wanted:
        raise InputError(f"adapter_config.json says rank {wanted:g} of {layer}, and its tensors have {rank}")


def _of_layer(about: Mapping[str, Any], patterns: str, name: str, layer: str) -> float:
    """The value of the first of the patterns that matches the layer's name, as peft matches them; else the
    field's own."""
    for pattern, value in (about.get(patterns) or {}).items():
        if _compiled(pattern).match(layer):
            return float(value)
    return float(about[name])


@functools.lru_cache(MOST_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")
