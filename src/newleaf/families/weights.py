"""Reversible maps between newleaf's weight names and Hugging Face's: one list of rules, run forwards or
backwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from newleaf.errors import InputError
from newleaf.model import GPTConfig

if TYPE_CHECKING:  # plans read the families' sizes without waiting for PyTorch
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One Hugging Face tensor and the newleaf tensors it holds: several are stacked along their rows (fused
    q, k, v).

    `transpose` is for layers that store [in, out]: GPT-1's and GPT-2's Conv1D, gpt-oss's experts. `heads`
    above 0 says that the parts are stacked head by head (GPT-NeoX: q, k and v of the first head, then of the
    second), `alternate` that their rows take turns (gpt-oss: gate and up of each expert, [E, rows, ...]).
    `derived` marks a tensor that newleaf computes from the configuration and stock transformers stores: it is
    written on export and ignored on import. `scale` is what ours is multiplied by to give theirs (GPT-3's
    queries in GPT-Neo's class); unless it is a power of two it rounds, and the export is fp32.
    """

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False
    heads: int = 0
    alternate: bool = False
    derived: Callable[[], Tensor] | None = None
    scale: float = 1.0

    @property
    def rounds(self) -> bool:
        """Whether scaling loses bits."""
        return math.frexp(self.scale)[0] != 0.5


def same(theirs: str, ours: str) -> Rule:
    return Rule(theirs, (ours,))


def module(theirs: str, ours: str) -> list[Rule]:
    """A module's weight and bias."""
    return [same(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


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
    """newleaf's tensors under Hugging Face's names, in its layout; in fp32 where a rule's scale would round
    shorter formats."""
    import torch

    theirs = {}
    rules = list(rules)
    if any(rule.rounds for rule in rules):
        ours = {name: tensor.float() for name, tensor in ours.items()}
    for rule in rules:
        if rule.derived is not None:
            theirs[rule.theirs] = rule.derived()
            continue
        parts = [ours[name] for name in rule.ours]
        if rule.heads:
            parts = [
                torch.cat([part.reshape(rule.heads, -1, *part.shape[1:]) for part in parts], dim=1).flatten(
                    0, 1
                )
            ]
        if rule.alternate:
            parts = [torch.stack(parts, dim=2).flatten(1, 2)]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if rule.scale != 1.0:
            whole = whole * rule.scale
        theirs[rule.theirs] = (whole.mT if rule.transpose else whole).contiguous()
    return theirs


def from_hugging_face(
    rules: Iterable[Rule], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face's tensors one after the other, under newleaf's names. `shapes` are the network's own.

    Raises InputError for a tensor that is missing, or whose shape does not fit the configuration.
    """
    import torch

    for rule in rules:
        if rule.derived is not None:
            continue
        # Folders of a bare network, as openai-community/gpt2, leave out the first part of each name.
        name = rule.theirs if rule.theirs in theirs else rule.theirs.split(".", 1)[-1]
        if name not in theirs:
            raise InputError(
                f"the weights lack {rule.theirs}; the folder is incomplete or of another architecture"
            )
        stored = theirs[name]
        whole = stored.mT if rule.transpose and stored.ndim > 1 else stored
        first, rows = shapes[rule.ours[0]], [shapes[name][0] for name in rule.ours]
        wanted = torch.Size(
            (first[0], len(rows) * first[1], *first[2:]) if rule.alternate else (sum(rows), *first[1:])
        )
        if whole.shape != wanted:
            shown = torch.Size((*wanted[:-2], wanted[-1], wanted[-2])) if rule.transpose else wanted
            raise InputError(
                f"{rule.theirs} has shape {tuple(stored.shape)}, and the configuration wants {tuple(shown)}"
            )
        for name, part in zip(rule.ours, _apart(rule, whole, rows), strict=True):
            yield name, part if rule.scale == 1.0 else (part.float() / rule.scale).to(part.dtype)


def rows_of(rule: Rule, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """Each of the rule's parts as numbers of the rows, counted through a stack, that it takes of the stored
    tensor with its rows first.

    So codes can be rearranged without being unpacked: the map is run on numbers in place of weights.
    """
    import torch

    thin = {name: torch.Size((*shapes[name][:-1], 1)) for name in rule.ours}
    first, parts = thin[rule.ours[0]], len(rule.ours)
    whole = (
        (first[0], parts * first[1], 1)
        if rule.alternate
        else (sum(shape[0] for shape in thin.values()), *first[1:])
    )
    numbers = torch.arange(math.prod(whole)).view(whole)
    stored = {rule.theirs: numbers.mT if rule.transpose else numbers}
    for name, part in from_hugging_face([rule], stored, thin):
        yield name, part.squeeze(-1)


def _apart(rule: Rule, whole: Tensor, rows: list[int]) -> list[Tensor]:
    """The parts of a fused tensor, each with its own rows."""
    import torch

    if rule.heads:
        each = torch.split(
            whole.reshape(rule.heads, -1, *whole.shape[1:]), [row // rule.heads for row in rows], dim=1
        )
        return [part.flatten(0, 1) for part in each]
    if rule.alternate:
        return [whole[:, number :: len(rows)] for number in range(len(rows))]
    return list(torch.split(whole, rows))
