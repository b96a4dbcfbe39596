"""Loops on PyTorch's threads."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from newleaf.kernels import activations


def silu_product(chunk: int) -> torch.Tensor:
    gate_up = torch.linspace(-4, 4, 7 * 64).view(7, 64)
    out = torch.empty(7, 32)
    activations.swiglu_forward(7, chunk, gate_up.data_ptr(), out.data_ptr(), 32, 1)
    gate, up = gate_up.chunk(2, dim=1)
    assert torch.allclose(out, torch.nn.functional.silu(gate) * up, atol=1e-6)
    return out


def test_a_result_does_not_depend_on_the_size_of_chunks() -> None:
    assert torch.equal(silu_product(1), silu_product(3))
    assert torch.equal(silu_product(1), silu_product(100))


def test_a_call_with_too_few_arguments_is_refused_before_it_reads_memory() -> None:
    with pytest.raises(TypeError, match="swiglu_forward takes 4 arguments, not 3"):
        activations.swiglu_forward(1, 1, 0, 0, 16)
