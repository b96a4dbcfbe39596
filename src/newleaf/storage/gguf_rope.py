"""Stretched rotary positions in a GGUF's metadata: YaRN as llama.cpp computes it; other kinds are refused by
name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from newleaf.errors import InputError
from newleaf.model import GPTConfig

YARN = {
    "rope.scaling.factor": "yarn_factor", "rope.scaling.original_context_length": "yarn_context",
    "rope.scaling.yarn_beta_fast": "yarn_beta_fast", "rope.scaling.yarn_beta_slow": "yarn_beta_slow",
}  # fmt: skip
KIND, OLD_FACTOR = "rope.scaling.type", "rope.scale_linear"
# `finetuned` says how a model was trained and changes nothing about what it computes.
KEYS = {KIND, OLD_FACTOR, "rope.scaling.finetuned", *YARN}


def read_rope(values: Mapping[str, Any], prefix: str, context_length: int) -> dict[str, Any]:
    """The fields of GPTConfig that these metadata (keys without their `prefix`) hold; none for plain rotary
    positions.

    Raises InputError, with the key, for a kind that newleaf does not compute.
    """
    kind = values.get(KIND, "linear")  # what llama.cpp takes where the file says nothing
    numbers = {key: _number(values[key], f"{prefix}.{key}") for key in (*YARN, OLD_FACTOR) if key in values}
    factor = numbers.get("rope.scaling.factor", numbers.get(OLD_FACTOR, 0.0)) or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind != "yarn":
        known = "newleaf, which knows plain rotary positions and yarn"
        raise InputError(
            f"metadata {prefix}.{KIND} = {str(kind)[:60]} with a factor of {factor:g} is not honoured by "
            f"{known}"
        )
    found = {name: numbers[key] for key, name in YARN.items() if key in numbers} | {"yarn_factor": factor}
    return found | {"yarn_context": int(found.get("yarn_context", 0)) or context_length}


def write_rope(config: GPTConfig) -> dict[str, Any]:
    """The metadata of the network's YaRN; empty for plain rotary positions."""
    if not config.yarn_factor:
        return {}
    return {KIND: "yarn"} | {key: getattr(config, name) for key, name in YARN.items()}


def _number(value: Any, key: str) -> float:
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise InputError(f"metadata {key} is {str(value)[:60]}, and not a number of at least 0")
    return float(value)
