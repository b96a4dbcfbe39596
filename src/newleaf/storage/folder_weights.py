"""A model folder's weights under newleaf's names, each read from the disk when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from newleaf.errors import InputError
from newleaf.families import Family
from newleaf.families.weights import from_hugging_face, same
from newleaf.model import GPTConfig
from newleaf.storage.build_network import empty_network
from newleaf.storage.stored_weights import StoredWeights
from newleaf.storage.tied_head import untie_if_stored_apart


class FolderWeights(Mapping[str, Tensor]):
    """What `GPT(config).state_dict()` would hold, in the memory of one stored tensor. `family` is None for
    newleaf's own type; `config` is the network's, untied where the stored head is one of its own.

    Raises InputError for what is missing, damaged or of another shape, when it is read.
    """

    def __init__(self, folder: Path, config: GPTConfig, family: Family | None) -> None:
        self.stored = StoredWeights(folder)
        if config.n_layer > len(self.stored):
            raise InputError(
                f"{folder}: config.json says {config.n_layer} layers, more than the weights have tensors"
            )
        self.config = config = untie_if_stored_apart(config, family, self.stored)
        self.shapes = {name: tensor.shape for name, tensor in empty_network(config).state_dict().items()}
        self.tied = config.tie_embeddings
        rules = family.rules(config) if family is not None else [same(name, name) for name in self.shapes]
        self.rules = {name: rule for rule in rules for name in rule.ours}
        self.last: dict[str, Tensor] = {}  # the parts of the tensor read last, as q, k and v come from one

    def __getitem__(self, name: str) -> Tensor:
        if self.tied and name == "head.weight":
            name = "embedding.token.weight"
        if name not in self.last:
            self.last = {}  # before the next is read
            self.last = dict(from_hugging_face([self.rules[name]], self.stored, self.shapes))
        return self.last[name]

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)
