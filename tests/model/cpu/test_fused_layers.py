"""The compiled loops of a training step against the modules that they replace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from newleaf.model import GPT, GPTConfig
from newleaf.model.cpu import fused_layers

SMALL: dict[str, Any] = {
    "vocab_size": 515,
    "n_layer": 2,
    "n_embd": 64,
    "n_head": 2,
    "init": "normal",
    "init_std": 0.1,
}
QWEN: dict[str, Any] = {
    "n_inner": 192, "norm": "rms_norm", "norm_eps": 1e-6, "qk_norm": True, "positions": "rotary",
    "activation": "silu", "gated": True, "attention_bias": False, "attention_out_bias": False,
    "feedforward_bias": False,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": QWEN,
    "qwen3, two queries to a key": QWEN | {"n_head": 4, "head_dim": 32, "n_kv_head": 2},
    "qwen3 without QK norm, other scale": QWEN | {"qk_norm": False, "attention_scale": 0.3},
    "gpt2": {},
    "gpt_neox": {"positions": "rotary", "block": "parallel", "tie_embeddings": False},
    "post-norm": {"block": "post_norm", "final_norm": False},
}


def network(name: str, length: int, **changes: Any) -> GPT:
    torch.manual_seed(0)
    net = GPT(GPTConfig(**SMALL | {"context_length": length} | SHAPES[name] | changes))
    for weight in net.parameters():
        if weight.ndim == 1:
            weight.data += 0.1 * torch.randn_like(weight)
    return net


def loss_and_gradients(
    net: GPT, ids: Tensor, targets: Tensor, documents: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    net.zero_grad()
    loss = net.loss(ids, targets, documents=documents)
    loss.backward()
    return loss.detach(), {
        name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None
    }


def fused_and_reference(
    net: GPT, ids: Tensor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Loss and gradients with the loops, and with them switched off."""
    fused = loss_and_gradients(net, ids, targets)
    with monkeypatch.context() as patch:
        patch.setattr(fused_layers, "fits", lambda x: False)
        return [fused, loss_and_gradients(net, ids, targets)]


def random_batch(length: int, batch: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    ids, targets = torch.randint(0, 515, (2, batch, length))
    targets[1, 3:9] = -100
    return ids, targets


@pytest.mark.parametrize("length", [96, 256, 304])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_training_step_has_the_loss_and_gradients_of_the_modules(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(
        fused_layers,
        "causal_attention",
        lambda *given, call=fused_layers.causal_attention: called.append(1) or call(*given),
    )
    (loss, gradients), (reference_loss, reference) = fused_and_reference(
        network(name, length), *random_batch(length), monkeypatch
    )
    assert len(called) == 2  # one a layer, and none with the loops off
    torch.testing.assert_close(loss, reference_loss, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == reference.keys()
    for part, gradient in gradients.items():
        # The gradient of a key's bias is zero but for rounding: it moves all scores of a query alike.
        least = 1e-6 if part.endswith("attention.k.bias") else 1e-7
        torch.testing.assert_close(
            gradient,
            reference[part],
            atol=least + 2e-5 * float(reference[part].abs().max()),
            rtol=0,
            msg=part,
        )


@pytest.mark.parametrize("mean", [5, 70])
@pytest.mark.parametrize("length", [96, 304])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "qwen3, two queries to a key"])
def test_documents_in_a_row_have_the_loss_and_gradients_that_they_have_alone(
    name: str, length: int, mean: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(
        fused_layers,
        "causal_attention",
        lambda *given, call=fused_layers.causal_attention: called.append(1) or call(*given),
    )
    net, (ids, targets) = network(name, length), random_batch(length)
    documents = (torch.rand(ids.shape) < 1 / mean).int().cumsum(1)
    documents[2] = 0  # and a row of one
    loss, gradients = loss_and_gradients(net, ids, targets, documents)
    assert len(called) == 2  # one a layer
    monkeypatch.setattr(fused_layers, "fits", lambda x: False)
    net.zero_grad()
    count, alone = int((targets >= 0).sum()), torch.tensor(0.0)
    for row, numbers in enumerate(documents):
        for number in numbers.unique():
            of = numbers == number
            alone = alone + net.loss(ids[row, of][None], targets[row, of][None], reduction="sum") / count
    alone.backward()
    torch.testing.assert_close(loss, alone.detach(), atol=1e-5, rtol=1e-5)
    for part, weight in net.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(
            gradients[part], weight.grad, atol=1e-6 + 5e-5 * float(weight.grad.abs().max()), rtol=0, msg=part
        )


def test_in_bf16_the_loops_are_no_further_from_fp64_than_the_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, targets = random_batch(256)
    _, fp64 = loss_and_gradients(network("qwen3", 256).double(), ids, targets)
    (loss, gradients), (_, reference) = fused_and_reference(
        network("qwen3", 256).bfloat16(), ids, targets, monkeypatch
    )
    true_loss = float(network("qwen3", 256).double().loss(ids, targets).detach())
    assert math.isclose(float(loss), true_loss, rel_tol=2e-3)
    for part, true in fp64.items():
        ours, theirs = (
            (found[part].double() - true).norm() / true.norm() for found in (gradients, reference)
        )
        assert ours < 1.25 * theirs + 1e-3, part


@pytest.mark.parametrize("width", [16, 515, 4099])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradients_of_the_loss_are_those_of_stock_cross_entropy(dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(0)
    # so large that a direct sum of exponentials would overflow
    logits = (40 * torch.randn(70, width)).to(dtype)
    targets = torch.randint(0, width, (70,))
    targets[5] = -100
    leaf = logits.float().requires_grad_()
    wanted = F.cross_entropy(leaf, targets, reduction="none")
    wanted.sum().backward()
    losses, gradients = fused_layers.softmax_gradients(logits.clone(), targets)
    torch.testing.assert_close(losses, wanted.detach(), atol=1e-4, rtol=1e-5)
    assert leaf.grad is not None
    torch.testing.assert_close(
        gradients.float(), leaf.grad, atol=1e-6 if dtype == torch.float32 else 4e-3, rtol=0
    )


def test_the_same_step_gives_the_same_gradients_on_any_number_of_threads() -> None:
    net, threads = network("qwen3", 256), torch.get_num_threads()
    x = torch.randn(8, 256, 64)
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            weight = net.final_norm.weight
            weight.grad = None
            fused_layers.rms_norm(leaf, weight, 1e-6).square().sum().backward()
            found.append((leaf.grad, weight.grad))
    finally:
        torch.set_num_threads(threads)
    for grad, sums in found[1:]:
        assert torch.equal(grad, found[0][0])
        assert torch.equal(sums, found[0][1])


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"windows": (8, 0)}, 256),
        ({"head_dim": 24}, 256),
        ({"rotary_dim": 16}, 256),
        ({"sinks": True}, 256),
        ({}, 250),
    ],
)
def test_what_the_loops_do_not_do_is_done_by_the_modules(
    changes: dict[str, Any], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network("qwen3", length, **changes)
    (loss, gradients), (reference_loss, reference) = fused_and_reference(
        net, *random_batch(length), monkeypatch
    )
    torch.testing.assert_close(loss, reference_loss, atol=1e-5, rtol=1e-5)
    for part, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, reference[part], atol=1e-6 + 2e-5 * float(reference[part].abs().max()), rtol=0, msg=part
        )


def test_second_derivatives_are_refused() -> None:
    net = network("qwen3", 256)
    ids, _ = random_batch(256)
    x = net.embedding.token.weight[ids].detach().requires_grad_()
    (grad,) = torch.autograd.grad(net.final_norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
