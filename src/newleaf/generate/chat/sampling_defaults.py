"""How a conversation is sampled where nobody says: as generation_config.json has it, or else in a way that
suits small models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from newleaf.errors import InputError
from newleaf.generate.options import SamplingConfig

FIELDS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size")
# At temperature 1 and without a cutoff, a small model's long tail of unlikely tokens makes noise (Nguyen et
# al. 2024).
OTHERWISE = {"temperature": 0.7, "min_p": 0.05}


def chat_sampling(defaults: Mapping[str, Any]) -> dict[str, float]:
    """Sampling options of `SamplingConfig` by the fields of a generation_config.json; OTHERWISE where it
    names none that can be."""
    return named_sampling(defaults) or dict(OTHERWISE)


def named_sampling(defaults: Mapping[str, Any]) -> dict[str, float]:
    """The sampling options that a generation_config.json names; a value that cannot be is left out."""
    return {name: defaults[name] for name in FIELDS if _can_be(name, defaults.get(name))}


def _can_be(name: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    options: dict[str, Any] = {name: value}
    try:
        SamplingConfig(**options)
    except InputError:
        return False
    return True
