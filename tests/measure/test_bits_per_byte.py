"""Bits per byte against closed forms and a by-hand sum."""

from __future__ import annotations

import math

import pytest
import torch

from newleaf.data.batches import Batch
from newleaf.measure.bits_per_byte import text_loss
from newleaf.model import GPT, GPTConfig


def test_a_network_that_knows_nothing_pays_log2_of_the_vocabulary_for_each_byte() -> None:
    network = GPT(GPTConfig(256, 16, 1, 1, 8, tie_embeddings=False))
    torch.nn.init.zeros_(network.head.weight)
    ids = torch.randint(0, 256, (3, 16))
    found = text_loss(network, [Batch(ids, ids)], torch.ones(256, dtype=torch.long))
    assert found.bits_per_byte == pytest.approx(8)
    assert found.per_token == pytest.approx(math.log(256))
    assert (found.tokens, found.bytes) == (48, 48)


def test_only_counted_targets_cost_and_bytes_are_those_of_their_tokens() -> None:
    network = GPT(GPTConfig(50, 16, 1, 1, 8))
    ids, targets = torch.randint(0, 50, (2, 16)), torch.randint(0, 50, (2, 16))
    targets[1, 4:] = -100
    lengths = torch.arange(50)
    found = text_loss(network, [Batch(ids[:1], targets[:1]), Batch(ids[1:], targets[1:])], lengths)
    with torch.no_grad():
        chances = network(ids).log_softmax(-1)
    by_hand = [
        -chances[b, t, targets[b, t]].item() for b in range(2) for t in range(16) if targets[b, t] >= 0
    ]
    assert found.nats == pytest.approx(sum(by_hand), rel=1e-4)
    assert found.tokens == len(by_hand)
    assert found.bytes == targets[targets >= 0].sum().item()
    assert found.bits_per_byte == pytest.approx(sum(by_hand) / math.log(2) / found.bytes, rel=1e-4)
