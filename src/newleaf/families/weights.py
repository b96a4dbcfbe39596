"""Reversible maps of weights between newleaf and Hugging Face: one list of rules, run both ways."""

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
    """One Hugging Face tensor and the newleaf tensors that it holds, concatenated along their rows."""

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False  # stored as [in, out]: GPT-1's and GPT-2's Conv1D, gpt-oss's experts
    heads: int = 0  # concatenated head by head: q, k, v of the first head, then of the second (GPT-NeoX)
    alternate: bool = False  # rows take turns: gate and up of each expert [E, rows, ...] (gpt-oss)
    # Computed by newleaf from the configuration: written on export and ignored on import.
    derived: Callable[[], Tensor] | None = None
    # Theirs = scale · ours (GPT-3's queries). Unless it is a power of two it rounds, and the export is fp32.
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
    """newleaf's tensors under Hugging Face's names and in its layout; fp32 where a rule's scale rounds."""
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
            by_head = [part.reshape(rule.heads, -1, *part.shape[1:]) for part in parts]
            parts = [torch.cat(by_head, dim=1).flatten(0, 1)]
        if rule.alternate:
            parts = [torch.stack(parts, dim=2).flatten(1, 2)]
        fused = parts[0] if len(parts) == 1 else torch.cat(parts)
        if rule.scale != 1.0:
            fused = fused * rule.scale
        theirs[rule.theirs] = (fused.mT if rule.transpose else fused).contiguous()
    return theirs


def from_hugging_face(
    rules: Iterable[Rule], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face's tensors under newleaf's names, one after the other; `shapes` are the network's.

    Raises InputError for a tensor that is missing, or whose shape does not fit the configuration.
    """

    for rule in rules:
        if rule.derived is not None:
            continue
        # Folders of a network without a head, as openai-community/gpt2, omit the first part of each name.
        name = rule.theirs if rule.theirs in theirs else rule.theirs.split(".", 1)[-1]
        if name not in theirs:
            raise InputError(
                f"the weights lack {rule.theirs}; the folder is incomplete or of another architecture"
            )
        stored = theirs[name]
        fused = stored.mT if rule.transpose and stored.ndim > 1 else stored
        rows = [shapes[name][0] for name in rule.ours]
        expected = _fused_shape(rule, shapes)
        if fused.shape != expected:
            shown = (*expected[:-2], expected[-1], expected[-2]) if rule.transpose else expected
            raise InputError(
                f"{rule.theirs} has shape {tuple(stored.shape)}, and the configuration wants {tuple(shown)}"
            )
        for name, part in zip(rule.ours, _split(rule, fused, rows), strict=True):
            yield name, part if rule.scale == 1.0 else (part.float() / rule.scale).to(part.dtype)


def rows_of(rule: Rule, shapes: Mapping[str, torch.Size]) -> Iterator[tuple[str, Tensor]]:
    """For each of the rule's tensors, the indices of the stored tensor's rows that it consists of.

    So packed weights are rearranged without unpacking: the map is run on row indices in place of weights.
    """
    import torch

    one_column = {name: torch.Size((*shapes[name][:-1], 1)) for name in rule.ours}
    shape = _fused_shape(rule, one_column)
    indices = torch.arange(math.prod(shape)).view(shape)
    stored = {rule.theirs: indices.mT if rule.transpose else indices}
    for name, part in from_hugging_face([rule], stored, one_column):
        yield name, part.squeeze(-1)


def _fused_shape(rule: Rule, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
    """The shape of the rule's tensors together, rows first."""
    first = shapes[rule.ours[0]]
    if rule.alternate:
        return (first[0], len(rule.ours) * first[1], *first[2:])
    return (sum(shapes[name][0] for name in rule.ours), *first[1:])


def _split(rule: Rule, fused: Tensor, rows: list[int]) -> list[Tensor]:
    """The parts of a fused tensor, each with its number of rows."""
    import torch

    if rule.heads:
        by_head = fused.reshape(rule.heads, -1, *fused.shape[1:])
        parts = torch.split(by_head, [count // rule.heads for count in rows], dim=1)
        return [part.flatten(0, 1) for part in parts]
    if rule.alternate:
        return [fused[:, number :: len(rows)] for number in range(len(rows))]
    return list(torch.split(fused, rows))
