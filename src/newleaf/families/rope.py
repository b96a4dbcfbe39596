"""Rotary positions in a config.json: plain, and YaRN (Peng et al. 2023), as transformers' rope_parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from newleaf.errors import InputError
from newleaf.families.config_fields import Fields, shown
from newleaf.model import GPTConfig

YARN_FIELDS = {
    "factor": "yarn_factor", "original_max_position_embeddings": "yarn_context",
    "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "truncate": "yarn_truncate",
}  # fmt: skip
YARN_SCALES = ("attention_factor", "mscale", "mscale_all_dim")  # other ways to scale attention: not supported


@dataclass(frozen=True)
class Rope:
    """The base, YaRN's fields, and with `share_field` how much of each head is rotated.

    rope_scaling goes before rope_parameters, and what stands in either before fields of their own, as in
    stock transformers. `default`, `base` and `share` hold where config.json has none of them.
    """

    base_field: str = "rope_theta"
    base: float = 10_000.0
    default: Mapping[str, Any] = field(default_factory=dict)
    share_field: str = ""
    share: float = 1.0

    def read(self, fields: Fields) -> dict[str, Any]:
        name, values = self._parameters(fields)
        base = fields.get(self.base_field, self.base)
        found: dict[str, Any] = {"rotary_base": float(values.pop("rope_theta", base))}
        share = values.pop(
            "partial_rotary_factor", fields.get(self.share_field) if self.share_field else None
        )
        if is_yarn(values):
            # Phi's folders have it beside rope_scaling.
            if (trained := fields.get("original_max_position_embeddings")) is not None:
                values["original_max_position_embeddings"] = trained
            found |= pop_yarn(values, fields.require("max_position_embeddings"))
            left = [scale for scale in YARN_SCALES if values.get(scale)]
            if share not in (None, 1.0) and not self.share_field:
                left.append("partial_rotary_factor")
            if left:
                unsupported = f"which newleaf's {fields.family} does not honour"
                raise InputError(f"config.json has {left[0]} in {name}, {unsupported}")
        elif not is_plain(values):
            raise fields.error(name, values, "plain rotary positions and yarn")
        if self.share_field:
            head_dim = fields.require("hidden_size") // fields.require("num_attention_heads")
            found["rotary_dim"] = int(head_dim * (self.share if share is None else float(share)))
        return found

    def write(self, config: GPTConfig) -> dict[str, Any]:
        parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_base}
        if config.yarn_factor:
            parameters["rope_type"] = "yarn"
            parameters |= {theirs: getattr(config, ours) for theirs, ours in YARN_FIELDS.items()}
        share = {}
        if self.share_field:
            parameters["partial_rotary_factor"] = config.rotary_dim / config.head_dim
            share = {self.share_field: parameters["partial_rotary_factor"]}
        return share | {self.base_field: config.rotary_base, "rope_parameters": parameters}

    def _parameters(self, fields: Fields) -> tuple[str, dict[str, Any]]:
        """The field that counts, and a copy of what stands in it."""
        parameters, scaling = fields.get("rope_parameters"), fields.get("rope_scaling")
        name, values = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
        is_nested = isinstance(values, dict) and any(isinstance(value, dict) for value in values.values())
        if values and (not isinstance(values, dict) or is_nested):
            raise InputError(
                f"config.json has {name} = {shown(values)}; newleaf's {fields.family} reads one object for "
                f"all layers there"
            )
        return name, {key: value for key, value in (values or self.default).items() if value is not None}


def is_yarn(rope: dict[str, Any]) -> bool:
    return rope.get("rope_type", rope.get("type")) == "yarn"


def is_plain(rope: dict[str, Any]) -> bool:
    """Whether positions are not scaled at all, in whichever of its forms."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind == "default" or (kind == "linear" and rope.get("factor") in (1, None))


def pop_yarn(rope: dict[str, Any], context_length: int) -> dict[str, Any]:
    """The yarn_ fields of GPTConfig, taken out of `rope`; what is left in it newleaf does not compute."""
    for name in ("rope_type", "type"):
        rope.pop(name, None)
    given = {name: value for name in YARN_FIELDS if (value := rope.pop(name, None)) is not None}
    original = int(given.get("original_max_position_embeddings", context_length))
    factor = float(given.get("factor", context_length / original))
    scale = rope.pop("attention_factor", None)
    standard = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    if scale is not None and not math.isclose(scale, standard, rel_tol=1e-6):
        rope["attention_factor"] = scale
    return {
        "yarn_factor": factor,
        "yarn_context": original,
        "yarn_beta_fast": float(given.get("beta_fast", 32.0)),
        "yarn_beta_slow": float(given.get("beta_slow", 1.0)),
        "yarn_truncate": bool(given.get("truncate", True)),
    }
