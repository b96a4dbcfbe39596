"""Whether a folder's weights are what its config.json says, by the heads of the files alone: no tensor is
read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from newleaf.errors import InputError
from newleaf.families import Family
from newleaf.families.weights import from_hugging_face, same
from newleaf.model import GPTConfig
from newleaf.storage.build_network import empty_network
from newleaf.storage.stored_weights import StoredWeights


def shape_mismatch(
    path: Path, config: GPTConfig, family: Family | None, classifier: bool = False
) -> str | None:
    """The first tensor that is missing or has another shape than `config` says, as a sentence; None where all
    fit."""
    try:
        stored = StoredWeights(path)
        if config.n_layer > len(stored):
            return f"{path}: config.json says {config.n_layer} layers, more than the weights have tensors"
        if classifier:  # it is stored without the language model's head
            config = config.replace(tie_embeddings=True, head_bias=False)
        shapes = {name: tensor.shape for name, tensor in empty_network(config).state_dict().items()}
        rules = family.rules(config) if family is not None else [same(name, name) for name in shapes]
        heads = {"head.weight"} if config.tie_embeddings else set()
        wanted = [
            rule for rule in rules if rule.theirs not in stored.packed and not heads.intersection(rule.ours)
        ]
        for _ in from_hugging_face(wanted, _HeaderShapes(stored), shapes):
            pass
    except InputError as error:
        text = str(error)
        return text if text.startswith(str(path)) else f"{path}: {text}"
    return None


class _HeaderShapes(Mapping[str, Tensor]):
    """Tensors without memory, of the shapes that are stored."""

    def __init__(self, stored: StoredWeights) -> None:
        self.stored = stored

    def __getitem__(self, name: str) -> Tensor:
        return torch.empty(self.stored.shape(name), device="meta")

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)
