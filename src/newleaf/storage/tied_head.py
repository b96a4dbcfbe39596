"""A head in the weights of a network whose configuration ties it to the embedding: where the two differ, it
is a head of its own."""

from __future__ import annotations

import torch

from newleaf.families import Family
from newleaf.model import GPTConfig
from newleaf.storage.stored_weights import StoredWeights

HEAD, TABLE = "head.weight", "embedding.token.weight"


def untie_if_stored_apart(config: GPTConfig, family: Family | None, stored: StoredWeights) -> GPTConfig:
    """The configuration, untied where the weights are: stock transformers ties nothing that a checkpoint has
    twice and otherwise."""
    if family is None or not config.tie_embeddings:
        return config
    untied = config.replace(tie_embeddings=False)
    names = {rule.ours[0]: rule.theirs for rule in family.rules(untied) if rule.ours in ((HEAD,), (TABLE,))}
    head, table = names.get(HEAD), names.get(TABLE)
    if head is None or table is None or head not in stored or table not in stored:
        return config
    return config if torch.equal(stored[head], stored[table]) else untied
