"""The GPT line, one file a family. The registry finds a family by what a config.json says, or by what a network needs."""

from __future__ import annotations

from typing import Any

from newleaf.errors import InputError
from newleaf.families import gpt1, gpt2, gpt_neo, gpt_neox, gptj, llama, qwen3
from newleaf.families.family import Family
from newleaf.model import GPTConfig

FAMILIES: tuple[Family, ...] = (
    qwen3.FAMILY, gpt2.FAMILY, gpt1.FAMILY, llama.FAMILY, gpt_neo.FAMILY, gptj.FAMILY, gpt_neox.FAMILY,
)  # fmt: skip


def family_of(values: dict[str, Any]) -> Family:
    """The family of a config.json. Raises InputError with the known ones."""
    architecture = (values.get("architectures") or [None])[0]
    for family in FAMILIES:
        if architecture == family.architecture or (architecture is None and values.get("model_type") == family.model_type):
            return family
    known = ", ".join(f"{family.name} ({family.architecture})" for family in FAMILIES)
    raise InputError(f"config.json is of {architecture or values.get('model_type') or 'no architecture'}; newleaf knows {known}")


def family_for(config: GPTConfig) -> Family | None:
    """A family whose Hugging Face class holds this network exactly, or None."""
    return next((family for family in FAMILIES if not family.cannot_hold(config)), None)


def nearest_family(config: GPTConfig) -> tuple[Family, dict[str, Any]]:
    """The family that comes closest to this network, and the fields to change: where the norms stand weighs most, then their number."""
    pairs = [(family, family.cannot_hold(config)) for family in FAMILIES]
    return min(pairs, key=lambda pair: ("block" in pair[1], "norm" in pair[1], len(pair[1])))


__all__ = ["FAMILIES", "Family", "family_for", "family_of", "nearest_family"]
