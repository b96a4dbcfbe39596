"""Reversible maps between newleaf's weight names and Hugging Face's: one list of rules, run forwards or backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.model import GPTConfig


@dataclass(frozen=True)
class Rule:
    """One Hugging Face tensor and the newleaf tensors it holds: several are stacked along their rows (fused q, k, v).

    `transpose` is for GPT-1's and GPT-2's Conv1D layers, which store [in, out]. `heads` above 0 says that the parts are stacked head by
    head (GPT-NeoX: q, k and v of the first head, then of the second). `derived` marks a tensor that newleaf computes from the configuration
    and stock transformers stores: it is written on export and ignored on import.
    """

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False
    heads: int = 0
    derived: Callable[[], Tensor] | None = None


def same(theirs: str, ours: str) -> Rule:
    return Rule(theirs, (ours,))


def conv1d(theirs: str, *ours: str) -> Rule:
    """A weight stored [in, out], and fused when there are several."""
    return Rule(theirs, ours, transpose=True)


def per_layer(config: GPTConfig, rules: Iterable[Rule]) -> list[Rule]:
    """Rules with `{i}` in their names, once for each layer."""
    rules = list(rules)
    return [
        replace(rule, theirs=rule.theirs.format(i=i), ours=tuple(name.format(i=i) for name in rule.ours))
        for i in range(config.n_layer)
        for rule in rules
    ]


def to_hugging_face(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """newleaf's tensors under Hugging Face's names, in its layout."""
    theirs = {}
    for rule in rules:
        if rule.derived is not None:
            theirs[rule.theirs] = rule.derived()
            continue
        parts = [ours[name] for name in rule.ours]
        if rule.heads:
            parts = [torch.cat([part.reshape(rule.heads, -1, *part.shape[1:]) for part in parts], dim=1).flatten(0, 1)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        theirs[rule.theirs] = (whole.T if rule.transpose else whole).contiguous()
    return theirs


def from_hugging_face(rules: Iterable[Rule], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Hugging Face's tensors under newleaf's names. `shapes` are the network's own.

    Raises InputError for a tensor that is missing, or whose shape does not fit the configuration.
    """
    ours: dict[str, Tensor] = {}
    for rule in rules:
        if rule.derived is not None:
            continue
        if rule.theirs not in theirs:
            raise InputError(f"the weights lack {rule.theirs}; the folder is incomplete or of another architecture")
        whole = theirs[rule.theirs].T if rule.transpose else theirs[rule.theirs]
        rows = [shapes[name][0] for name in rule.ours]
        wanted = (sum(rows), *shapes[rule.ours[0]][1:])
        if tuple(whole.shape) != wanted:
            found = tuple(theirs[rule.theirs].shape)
            raise InputError(f"{rule.theirs} has shape {found}, and the configuration wants {wanted[::-1] if rule.transpose else wanted}")
        if rule.heads:
            each = torch.split(whole.reshape(rule.heads, -1, *whole.shape[1:]), [row // rule.heads for row in rows], dim=1)
            parts = [part.flatten(0, 1) for part in each]
        else:
            parts = list(torch.split(whole, rows))
        for name, part in zip(rule.ours, parts, strict=True):
            ours[name] = part.contiguous()
    return ours
