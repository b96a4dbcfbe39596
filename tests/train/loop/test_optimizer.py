"""Our optimizer step against PyTorch's own Muon and AdamW."""

from __future__ import annotations

import copy

import pytest
import torch

from newleaf.model import GPT, GPTConfig
from newleaf.train.loop.optimizer import Optimizer, orthogonalize
from newleaf.train.objective.optimizer_config import OptimizerConfig


def network() -> GPT:
    torch.manual_seed(4)
    return GPT(
        GPTConfig(
            64,
            16,
            2,
            2,
            32,
            n_inner=48,
            norm="rms_norm",
            positions="rotary",
            activation="silu",
            gated=True,
            qk_norm=True,
        )
    )


def backward(model: GPT, step: int) -> None:
    ids = torch.randint(0, 64, (4, 17), generator=torch.Generator().manual_seed(step))
    model.loss(ids[:, :-1], ids[:, 1:]).backward()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_ten_steps_equal_those_of_pytorchs_optimizers(kind: str) -> None:
    ours, theirs = network(), network()
    settings = OptimizerConfig(
        kind=kind, learning_rate=1e-3, matrix_learning_rate=0.01, weight_decay=0.2, clip=0.5
    )  # type: ignore[arg-type]
    optimizer = Optimizer(ours, settings)
    named = dict(theirs.named_parameters())
    matrices = [p for name, p in named.items() if name.startswith("blocks.") and p.ndim == 2]
    rest = [p for p in named.values() if p.ndim == 2 and not any(p is m for m in matrices)]
    vectors = [p for p in named.values() if p.ndim < 2]
    by_adam = rest + matrices if kind == "adamw" else rest
    references: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": by_adam, "weight_decay": 0.2}, {"params": vectors, "weight_decay": 0.0}],
            lr=1e-3,
            betas=(0.9, 0.95),
        )
    ]
    if kind == "muon":
        references.append(torch.optim.Muon(matrices, lr=0.01, weight_decay=0.2, momentum=0.95, nesterov=True))
    for step in range(10):
        factor = 1 - step / 20
        backward(ours, step)
        backward(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert optimizer.step(factor) == pytest.approx(float(norm), rel=2e-3)
        for reference, peak in zip(references, (1e-3, 0.01), strict=False):
            for group in reference.param_groups:
                group["lr"] = peak * factor
            reference.step()
            reference.zero_grad()
        for reference in references:
            reference.zero_grad()
    # Newton–Schulz runs in bf16 on both sides: 8 bits of each update, ten updates of at most 0.01.
    tolerance = 1e-5 if kind == "adamw" else 3e-3
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(
            weight, named[name], atol=tolerance, rtol=1e-2, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    for shape in ((3, 40, 40), (2, 30, 80), (2, 80, 30)):
        left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
        matrices = left * torch.rand(left.shape[-1]).clamp(min=0.2) @ right
        singular = torch.linalg.svdvals(orthogonalize(matrices).float())
        assert singular.min() > 0.6  # the quintic aims at 0.7 to 1.2
        assert singular.max() < 1.3


def test_a_bf16_network_keeps_fp32_masters_that_small_steps_still_move() -> None:
    model = network()
    optimizer = Optimizer(
        model, OptimizerConfig(kind="adamw", learning_rate=1e-6, weight_decay=0.0), torch.bfloat16
    )
    before = copy.deepcopy(optimizer.weights_by_name())
    for step in range(3):
        backward(model, step)
        optimizer.step(1.0)
    after = optimizer.weights_by_name()
    name = "embedding.token.weight"
    assert model.embedding.token.weight.dtype == torch.bfloat16
    assert after[name].dtype == torch.float32
    moved = (after[name] - before[name]).abs()
    assert 1e-6 < moved.max() < 4e-6


def test_state_goes_out_and_comes_back() -> None:
    first, second = network(), network()
    one, two = Optimizer(first, OptimizerConfig()), Optimizer(second, OptimizerConfig())
    for step in range(3):
        backward(first, step)
        one.step(1.0)
    two.load_state({name: tensor.clone() for name, tensor in one.state().items()})
    for step in range(3, 6):
        for model, optimizer in ((first, one), (second, two)):
            backward(model, step)
            optimizer.step(0.5)
    for name, tensor in one.state().items():
        assert torch.equal(tensor, two.state()[name]), name
