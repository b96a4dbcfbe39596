"""The GPT line, one file a family; found by a config.json, by a network, or by a published size."""

from __future__ import annotations

import difflib
from typing import Any

from newleaf.errors import InputError
from newleaf.families import gpt1, gpt2, gpt3, gpt_neo, gpt_neox, gpt_oss, gptj, llama, qwen3
from newleaf.families.family import Family
from newleaf.model import GPTConfig

FAMILIES: tuple[Family, ...] = (
    qwen3.FAMILY, gpt2.FAMILY, gpt1.FAMILY, llama.FAMILY, gpt_neo.FAMILY, gpt3.FAMILY, gptj.FAMILY,
    gpt_neox.FAMILY, gpt_oss.FAMILY,
)  # fmt: skip


def family_of(values: dict[str, Any]) -> Family:
    """The family of a config.json. Raises InputError with the known ones."""
    architecture = next(iter(values.get("architectures") or []), None)
    kind, own = values.get("model_type"), values.get("newleaf")
    named = own.get("family") if isinstance(own, dict) else None
    # As stock transformers chooses: by the type; by the class only where there is none.
    fitting = [
        family
        for family in FAMILIES
        if (kind == family.model_type if kind is not None else architecture == family.architecture)
    ]
    for family in fitting:
        if family.name == named or not (family.shares_class or any(other.name == named for other in fitting)):
            return family
    known = ", ".join(f"{family.name} ({family.architecture})" for family in FAMILIES)
    raise InputError(
        f"config.json is of {str(architecture or kind or 'no architecture')[:60]}; newleaf knows {known}"
    )


def family_for(config: GPTConfig) -> Family | None:
    """A family whose Hugging Face class holds this network exactly, or None."""
    return next((family for family in FAMILIES if not family.cannot_hold(config)), None)


def nearest_family(config: GPTConfig) -> tuple[Family, dict[str, Any]]:
    """The family that comes closest to this network, and the fields to change.

    Where the norms stand counts first, then the kind of norm, then the number of fields.
    """
    pairs = [(family, family.cannot_hold(config)) for family in FAMILIES]
    return min(pairs, key=lambda pair: ("block" in pair[1], "norm" in pair[1], len(pair[1])))


def size(name: str) -> GPTConfig:
    """The network of a published size, such as gpt2-124m.

    Raises InputError where there is none, offering the nearest, and for a size that exists on paper only.
    """
    key = size_name(name)
    for family in FAMILIES:
        if key in family.on_paper:
            raise InputError(
                f"{key} exists on paper only: {family.on_paper[key].why}; newleaf plan {key} counts it"
            )
        if key in family.sizes:
            return family.sizes[key]
    raise AssertionError(key)


def size_name(name: str) -> str:
    """The published size of this name, in any case. Raises InputError for another, offering the nearest."""
    known = [key for family in FAMILIES for key in (*family.sizes, *family.on_paper)]
    key = name.strip().lower().replace("_", "-")
    if key in known:
        return key
    near = [each for each in known if each.startswith(f"{key}-")] or difflib.get_close_matches(
        key, known, n=1, cutoff=0.5
    )
    raise InputError(f"{name}: no such size" + (f"; did you mean {near[0]}?" if near else ""))


__all__ = ["FAMILIES", "Family", "family_for", "family_of", "nearest_family", "size", "size_name"]
