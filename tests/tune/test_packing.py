"""Conversations in one window do not see each other, and none is lost on the way into windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newleaf.model import GPT, GPTConfig
from newleaf.model.packed_documents import PackedDocuments
from newleaf.tune.conversations.example import Example
from newleaf.tune.conversations.packing import PackedExamples, ShuffledBatches, pack

SHAPES = {
    "learned positions": {"tie_embeddings": False},
    "rotary": {
        "positions": "rotary",
        "norm": "rms_norm",
        "qk_norm": True,
        "n_kv_head": 2,
        "activation": "silu",
        "gated": True,
    },
    "sinks": {"positions": "rotary", "sinks": True},
    "sinks and windows": {"positions": "rotary", "sinks": True, "windows": (5, 0)},
    "parallel": {"positions": "rotary", "block": "parallel", "rotary_dim": 4, "rotary_interleaved": True},
    "post-norm": {"block": "post_norm", "final_norm": False},
}


def examples(sizes: list[int], seed: int = 0) -> list[Example]:
    chance = np.random.default_rng(seed)
    found = []
    for number, size in enumerate(sizes):
        learned = chance.random(size + 1) < 0.5
        learned[-1] = True
        found.append(Example(f"f:{number}", chance.integers(1, 90, size + 1, dtype=np.int32), learned))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 5))
def test_packing_places_every_example_once_and_no_window_is_too_long(sizes: list[int], seed: int) -> None:
    windows = pack(sizes, 40, seed)
    assert sorted(number for window in windows for number in window) == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in window) <= 40 for window in windows)
    assert len(windows) <= 2 * -(-sum(sizes) // 40)  # any-fit packing never takes twice what is needed


@pytest.mark.parametrize("sizes", [[20, 13, 9, 21, 30], [70, 40, 120, 100, 50, 110]], ids=["masked", "apart"])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_of_a_packed_conversation_are_those_it_has_alone(name: str, sizes: list[int]) -> None:
    """Also their gradients, by a loss over all of them."""
    length = 64 if sizes[0] == 20 else 256
    config = GPTConfig(vocab_size=90, context_length=length, n_layer=2, n_head=4, n_embd=32, **SHAPES[name])  # type: ignore[arg-type]
    network = GPT(config).double().eval()
    made = examples(sizes)
    packed = PackedExamples(made, length, 0, seed=1)
    assert len(packed) <= 3
    batch = packed.rows(range(len(packed)))
    apart = PackedDocuments.of(batch.documents)
    assert apart is not None
    assert (apart.spans(0) is None) == (sizes[0] == 20)
    together = network(batch.ids, documents=batch.documents)
    for row, window in enumerate(packed.windows):
        at = 0
        for number in window:
            ids = torch.from_numpy(made[number].ids[:-1].astype(np.int64))
            alone = network(ids[None])[0]
            torch.testing.assert_close(together[row, at : at + len(ids)], alone, rtol=1e-9, atol=1e-9)
            at += len(ids)
    network.zero_grad()
    network.loss(batch.ids, batch.targets, documents=batch.documents, reduction="sum").backward()
    packed_slopes = [weight.grad.clone() for weight in network.parameters()]
    network.zero_grad()
    for example in made:
        ids = torch.from_numpy(example.ids.astype(np.int64))
        targets = torch.where(torch.from_numpy(example.learned[1:]), ids[1:], -100)
        network.loss(ids[None, :-1], targets[None], reduction="sum").backward()
    torch.testing.assert_close(
        packed_slopes, [weight.grad for weight in network.parameters()], rtol=1e-6, atol=1e-6
    )


def test_the_loss_of_packed_conversations_is_that_of_each_alone() -> None:
    network = (
        GPT(GPTConfig(vocab_size=90, context_length=64, n_layer=2, n_head=4, n_embd=32))
        .eval()
        .requires_grad_(False)
    )
    made = examples([20, 13, 9, 21, 30])
    batch = PackedExamples(made, 64, 0, seed=1).rows([0, 1])
    found = network.loss(batch.ids, batch.targets, documents=batch.documents, reduction="sum")
    wanted = 0.0
    for example in made:
        ids = torch.from_numpy(example.ids.astype(np.int64))
        log_probs = network(ids[None, :-1])[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if example.learned[place]:
                wanted -= float(log_probs[place - 1, ids[place]])
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert batch.tokens == sum(int(example.learned[1:].sum()) for example in made)


def test_batches_follow_from_seed_and_step_visit_each_window_once_and_are_shared_equally() -> None:
    packed = PackedExamples(examples([10] * 37), 33, 0, seed=1)
    batches = ShuffledBatches(packed, 4, seed=7)
    epoch = [number for step in range(13) for number in batches.numbers(step)][: len(packed)]
    assert sorted(epoch) == list(range(len(packed)))
    assert batches.numbers(3) == ShuffledBatches(packed, 4, seed=7).numbers(3)
    assert batches.numbers(3) != ShuffledBatches(packed, 4, seed=8).numbers(3)
    shares = [ShuffledBatches(packed, 4, 7, (part, 2)).numbers(5) for part in range(2)]
    assert shares[0] + shares[1] == batches.numbers(5)
    assert batches.widest().ids.shape == (4, 32)


def test_unpacked_examples_stand_alone_and_need_no_mask() -> None:
    packed = PackedExamples(examples([10, 12]), 33, 0, seed=1, packed=False)
    batch = packed.rows([0, 1])
    assert len(packed) == 2
    assert batch.documents is None
    assert batch.ids.shape == (2, 16)
