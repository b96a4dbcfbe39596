"""Rotary positions in a config.json: plain ones, and YaRN (Peng et al. 2023), as transformers'
rope_parameters say them."""

from __future__ import annotations

import math
from typing import Any

from newleaf.model import GPTConfig

NAMES = {
    "factor": "yarn_factor", "original_max_position_embeddings": "yarn_context", "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow", "truncate": "yarn_truncate",
}  # fmt: skip


def is_yarn(rope: dict[str, Any]) -> bool:
    return rope.get("rope_type", rope.get("type")) == "yarn"


def is_plain(rope: dict[str, Any]) -> bool:
    """Whether positions are not stretched at all, however that is said."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    return kind == "default" or (kind == "linear" and rope.get("factor") in (1, None))


def take_yarn(rope: dict[str, Any], context_length: int) -> dict[str, Any]:
    """The yarn_ fields of GPTConfig, taken out of `rope`; what is left in it is not YaRN's as newleaf
    computes it."""
    for name in ("rope_type", "type"):
        rope.pop(name, None)
    given = {name: value for name in NAMES if (value := rope.pop(name, None)) is not None}
    original = int(given.get("original_max_position_embeddings", context_length))
    factor = float(given.get("factor", context_length / original))
    scale = rope.pop("attention_factor", None)
    usual = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    if scale is not None and not math.isclose(scale, usual, rel_tol=1e-6):
        rope["attention_factor"] = scale
    found = {
        "yarn_factor": factor,
        "yarn_context": original,
        "yarn_beta_fast": float(given.get("beta_fast", 32.0)),
        "yarn_beta_slow": float(given.get("beta_slow", 1.0)),
    }
    return found | {"yarn_truncate": bool(given.get("truncate", True))}


def rope_parameters(config: GPTConfig) -> dict[str, Any]:
    """The way back."""
    if not config.yarn_factor:
        return {"rope_type": "default", "rope_theta": config.rotary_base}
    yarn = {theirs: getattr(config, ours) for theirs, ours in NAMES.items()}
    return {"rope_type": "yarn", "rope_theta": config.rotary_base} | yarn
