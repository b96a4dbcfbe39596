"""Loss in a unit that does not depend on the tokenizer: bits per byte of the original UTF-8 text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from newleaf.data.batches import Batch
from newleaf.model import GPT


@dataclass(frozen=True)
class TextLoss:
    """What a text cost: nats in all, tokens that were predicted, and the bytes they stand for."""

    nats: float
    tokens: int
    bytes: int

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / max(1, self.bytes)


@torch.no_grad()
def text_loss(network: GPT, batches: Iterable[Batch], byte_lengths: Tensor) -> TextLoss:
    """Loss over batches whose targets count each byte of a text once (house rule 7); `byte_lengths` [V] gives
    each token's bytes."""
    training, device = network.training, network.device
    network.eval()
    nats, tokens, size = 0.0, 0, 0
    for batch in batches:
        documents = batch.documents.to(device) if batch.documents is not None else None
        nats += float(
            network.loss(batch.ids.to(device), batch.targets.to(device), documents=documents, reduction="sum")
        )
        counted = batch.targets[batch.targets >= 0]
        tokens += counted.numel()
        size += int(byte_lengths[counted].sum())
    network.train(training)
    return TextLoss(nats, tokens, size)
