"""Properties of the network in every configuration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from newleaf.model import GPT, ConfigError, GPTConfig, KVCache
from newleaf.model.cpu.matmul_attention import sink_attention
from newleaf.model.embedding import sinusoidal_table
from newleaf.model.loss import linear_cross_entropy
from newleaf.model.norm import RMSNorm

NEW = {
    "norm": "rms_norm", "qk_norm": True, "positions": "rotary", "activation": "silu", "gated": True,
    "attention_bias": False, "attention_out_bias": False, "feedforward_bias": False, "tie_embeddings": False,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "gpt1": {"block": "post_norm", "final_norm": False},
    "gpt2": {},
    "new": NEW,
    "new-grouped": NEW | {"n_kv_head": 2, "head_dim": 6},
    "tutorial": {
        "block": "post_norm",
        "tie_embeddings": False,
        "head_bias": True,
        "activation": "relu",
        "n_inner": 50,
    },
    "sinusoidal": {"positions": "sinusoidal"},
}


@pytest.fixture(params=list(KINDS))
def network(request: pytest.FixtureRequest) -> GPT:
    config = GPTConfig(
        vocab_size=61, context_length=32, n_layer=3, n_head=4, n_embd=32, **KINDS[request.param]
    )
    network = GPT(config)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return network.eval()


@torch.no_grad()
def test_a_cache_gives_the_logits_of_one_uncached_pass(network: GPT) -> None:
    ids = torch.randint(0, 61, (2, 20))
    whole = network(ids)
    cache = KVCache(network.config, 2)
    pieces = [network(ids[:, a:b], cache=cache) for a, b in ((0, 7), (7, 8), (8, 9), (9, 15), (15, 20))]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_cache_keeps_the_record_of_padding(network: GPT) -> None:
    ids = torch.randint(0, 61, (2, 12))
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, :5] = False
    cache = KVCache(network.config, 2)
    network(ids[:, :8], real=real[:, :8], cache=cache)
    later = torch.cat([network(ids[:, t : t + 1], cache=cache) for t in range(8, 12)], 1)
    torch.testing.assert_close(later[1], network(ids[1:, 5:])[0, 3:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(later[0], network(ids[:1])[0, 8:], atol=1e-5, rtol=1e-5)


def test_a_full_cache_refuses_more(network: GPT) -> None:
    cache = KVCache(network.config, 1, max_length=4)
    network(torch.zeros(1, 4, dtype=torch.long), cache=cache)
    with pytest.raises(ValueError, match="holds 4 tokens, and 5"):
        network(torch.zeros(1, 1, dtype=torch.long), cache=cache)


@torch.no_grad()
def test_no_token_sees_a_later_one(network: GPT) -> None:
    ids = torch.randint(0, 61, (1, 20))
    changed = ids.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 61
    torch.testing.assert_close(network(ids)[0, :12], network(changed)[0, :12], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(network(ids)[0, 12:], network(changed)[0, 12:])


@torch.no_grad()
def test_documents_in_one_row_have_the_logits_that_they_have_alone(network: GPT) -> None:
    ids = torch.randint(0, 61, (1, 20))
    documents = torch.tensor([[0] * 6 + [1] * 9 + [2] * 5])
    got = network(ids, documents=documents)
    for start, end in ((0, 6), (6, 15), (15, 20)):
        torch.testing.assert_close(got[:, start:end], network(ids[:, start:end]), atol=1e-5, rtol=1e-5)


def test_the_loss_and_its_gradients_are_those_of_the_logits(network: GPT) -> None:
    ids, targets = torch.randint(0, 61, (2, 20)), torch.randint(0, 61, (2, 20))
    targets[:, ::3] = -100
    loss = network.loss(ids, targets)
    loss.backward()
    grads = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    expected = F.cross_entropy(network(ids).flatten(0, 1), targets.flatten())
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for got, wanted in zip(grads, (p.grad for p in network.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    each = network.loss(ids, targets, reduction="none")
    torch.testing.assert_close(each.sum(), network.loss(ids, targets, reduction="sum"))


def test_post_norm_layers_are_pytorchs_own_encoder_layers() -> None:
    """Tutorials build a GPT from torch.nn.TransformerEncoder; with its weights, ours gives its outputs."""
    config = GPTConfig(
        61,
        32,
        2,
        4,
        32,
        n_inner=50,
        activation="relu",
        **{k: v for k, v in KINDS["tutorial"].items() if k not in ("activation", "n_inner")},
    )
    network = GPT(config).eval()
    layer = torch.nn.TransformerEncoderLayer(
        32, 4, 50, dropout=0.0, activation="relu", batch_first=True, norm_first=False
    )
    theirs = torch.nn.TransformerEncoder(
        layer, 2, norm=torch.nn.LayerNorm(32), enable_nested_tensor=False
    ).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)
        for ours, other in zip(network.blocks, theirs.layers, strict=True):
            pairs = [
                (ours.attention.out, other.self_attn.out_proj),
                (ours.feedforward.up, other.linear1),
                (ours.feedforward.down, other.linear2),
            ]
            pairs += [(ours.attention_norm, other.norm1), (ours.feedforward_norm, other.norm2)]
            for mine, reference in pairs:
                mine.load_state_dict(reference.state_dict())
            for part, weight, bias in zip(
                "qkv",
                other.self_attn.in_proj_weight.chunk(3),
                other.self_attn.in_proj_bias.chunk(3),
                strict=True,
            ):
                getattr(ours.attention, part).weight.copy_(weight)
                getattr(ours.attention, part).bias.copy_(bias)
        network.final_norm.load_state_dict(theirs.norm.state_dict())
        ids = torch.randint(0, 61, (2, 20))
        embedded = network.embedding(ids, torch.arange(20))
        mask = torch.nn.Transformer.generate_square_subsequent_mask(20)
        torch.testing.assert_close(
            network.hidden(ids), theirs(embedded, mask=mask, is_causal=True), atol=1e-5, rtol=1e-5
        )


def test_rms_norm_and_its_gradients_are_pytorchs() -> None:
    ours = RMSNorm(24, 1e-6).double()
    ours.weight.data.uniform_(0.5, 2)
    x = torch.randn(3, 5, 24, dtype=torch.double, requires_grad=True)
    up = torch.randn_like(x)
    got = torch.autograd.grad(ours(x), (x, ours.weight), up)
    wanted = torch.autograd.grad(F.rms_norm(x, (24,), ours.weight, 1e-6), (x, ours.weight), up)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_chunked_cross_entropy_is_pytorchs_with_and_without_bias(reduction: str) -> None:
    hidden = torch.randn(700, 16, dtype=torch.double, requires_grad=True)
    weight = torch.randn(9000, 16, dtype=torch.double, requires_grad=True)
    bias = torch.randn(9000, dtype=torch.double, requires_grad=True)
    targets = torch.randint(0, 9000, (700,))
    targets[5:50] = -100
    for b in (bias, None):
        inputs = (hidden, weight) if b is None else (hidden, weight, b)
        got = linear_cross_entropy(hidden, weight, b, targets, reduction)
        wanted = F.cross_entropy(F.linear(hidden, weight, b), targets, reduction=reduction)
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
        for x, y in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(wanted, inputs), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_cross_entropy_survives_a_target_of_vanishing_probability() -> None:
    hidden = torch.tensor([[1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[500.0, 0.0], [-500.0, 0.0]])
    assert linear_cross_entropy(hidden, weight, None, torch.tensor([1])).item() == pytest.approx(1000.0)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoidal_table(10, 8)
    for position in (0, 3, 9):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_initialisation_is_as_published() -> None:
    gpt2 = GPT(GPTConfig(500, 64, 6, 4, 128))
    assert gpt2.embedding.token.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt2.blocks[2].attention.q.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt2.blocks[2].feedforward.down.weight.std().item() == pytest.approx(
        0.02 / math.sqrt(12), rel=0.05
    )
    gpt1 = GPT(GPTConfig(500, 64, 6, 4, 128, block="post_norm", final_norm=False, init="normal"))
    assert gpt1.blocks[2].feedforward.down.weight.std().item() == pytest.approx(0.02, rel=0.05)
    own = GPT(GPTConfig(500, 64, 2, 2, 128, init="fan_in", **NEW))
    assert own.blocks[0].attention.q.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert not own.blocks[0].attention.out.weight.any()


def test_dropout_acts_in_training_only() -> None:
    network = GPT(
        GPTConfig(61, 32, 2, 2, 32, embedding_dropout=0.1, attention_dropout=0.1, residual_dropout=0.1)
    )
    ids = torch.randint(0, 61, (1, 20))
    assert not torch.equal(network.train()(ids), network(ids))
    assert torch.equal(network.eval()(ids), network(ids))


def test_a_text_longer_than_the_context_is_refused(network: GPT) -> None:
    with pytest.raises(ValueError, match="33 tokens do not fit the context of 32"):
        network(torch.zeros(1, 33, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_head": 5}, "n_head: 5 heads do not divide n_embd = 32"),
        ({"n_kv_head": 3}, "n_kv_head: 3"),
        ({"n_layer": 0}, "n_layer"),
        ({"norm": "batch_norm"}, "norm: 'batch_norm' is not one of layer_norm, rms_norm"),
        ({"positions": "rotary", "head_dim": 7}, "head_dim"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"qk_norm": "yes"}, "qk_norm"),
        ({"n_layer": "two"}, "n_layer"),
        ({"n_inner": -1}, "n_inner"),
        ({"norm_eps": "small"}, "norm_eps"),
        ({"rotary_base": float("nan")}, "rotary_base"),
        ({"windows": (4, 4)}, "windows"),
        ({"n_expert": 2, "gated": True}, "n_expert_active"),
        ({"shared_norm": True}, "shared_norm"),
    ],
)
def test_an_impossible_configuration_is_refused_by_field(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}"):
        GPTConfig(
            **({"vocab_size": 61, "context_length": 32, "n_layer": 3, "n_head": 4, "n_embd": 32} | changes)
        )


def test_a_field_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="n_layers: no such field; did you mean n_layer"):
        GPTConfig.from_dict({"vocab_size": 1, "context_length": 1, "n_layers": 1, "n_head": 1, "n_embd": 2})


def test_attention_sinks_and_experts_are_those_of_the_formulas() -> None:
    """One head's softmax with a sink, and one token's mixture, computed by hand."""
    config = GPTConfig(
        11, 8, 1, 1, 4, norm="rms_norm", positions="rotary", sinks=True, gated=True,
        activation="clamped_swiglu", n_expert=3, n_expert_active=2, n_inner=5, swiglu_limit=0.5, init_std=1.0,
    )  # fmt: skip
    block = next(iter(GPT(config).layers))
    with torch.no_grad():
        block.attention.sinks.fill_(0.7)
        q, k, v = torch.randn(3, 1, 1, 6, 4).unbind()
        got = sink_attention(q, k, v, None, block.attention.sinks, 0.5, 0.0)[0, 0]
        for t in range(6):
            scores = [0.5 * float(q[0, 0, t] @ k[0, 0, s]) for s in range(t + 1)]
            total = sum(math.exp(score) for score in scores) + math.exp(0.7)
            wanted = sum(math.exp(score) / total * v[0, 0, s] for s, score in enumerate(scores))
            torch.testing.assert_close(got[t], wanted)
        mixture, x = block.feedforward, torch.randn(1, 1, 4)
        scores = mixture.router(x[0, 0])
        best = scores.topk(2)
        wanted = torch.zeros(4)
        for share, e in zip(best.values.softmax(0), best.indices, strict=True):
            gate = (mixture.gate[e] @ x[0, 0] + mixture.gate_bias[e]).clamp(max=0.5)
            up = (mixture.up[e] @ x[0, 0] + mixture.up_bias[e]).clamp(-0.5, 0.5)
            wanted += share * (
                mixture.down[e] @ (gate * torch.sigmoid(1.702 * gate) * (up + 1)) + mixture.down_bias[e]
            )
        torch.testing.assert_close(mixture(x)[0, 0], wanted)
