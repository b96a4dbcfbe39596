"""Claims about number formats: the faster one is taken, by measuring, whatever the processor says that it
has."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from newleaf.evaluation.local_model import LocalModel
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.kernels import matmul_speed
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer
from newleaf.train.objective.train_config import TrainConfig
from newleaf.train.pretraining.prepare_pretraining import resolve_machine_options

CPU = torch.device("cpu")


def measure(monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float]) -> None:
    """A machine on which a product takes so long."""
    monkeypatch.setattr(matmul_speed, "_seconds", lambda left, right: seconds[left.dtype])
    matmul_speed._bf16_beats_fp32.cache_clear()


@pytest.fixture(autouse=True)
def _forget() -> None:
    matmul_speed._bf16_beats_fp32.cache_clear()


@pytest.mark.parametrize(
    ("bf16", "taken"), [(0.1, "bf16"), (0.5, "bf16"), (0.95, "fp32"), (1.0, "fp32"), (50.0, "fp32")]
)
def test_training_takes_bf16_where_its_products_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, taken: str
) -> None:
    measure(monkeypatch, {torch.float32: 1e-3, torch.bfloat16: bf16 * 1e-3})
    assert resolve_machine_options(TrainConfig()).precision == taken
    # who asks for one gets it
    assert resolve_machine_options(TrainConfig(precision="bf16")).precision == "bf16"


def test_prompts_and_likelihoods_go_another_way_where_bf16_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    network = GPT(GPTConfig(258, 64, 1, 2, 64)).eval().bfloat16()
    tokenizer = train_tokenizer(["some text"], TokenizerConfig(kind="byte"))
    for slow in (False, True):
        measure(monkeypatch, {torch.float32: 1e-3, torch.bfloat16: 1e-1 if slow else 1e-4})
        assert LoweredRunner(network).reads_by_products is not slow
        scored = LocalModel(network, tokenizer, "tiny").scored
        assert scored.dtype == (torch.float32 if slow else torch.bfloat16)
        assert (scored is network) is not slow
    assert LoweredRunner(GPT(GPTConfig(258, 64, 1, 2, 64)).eval()).reads_by_products


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86's instructions")
def test_a_machine_that_emulates_bf16_is_found_out_though_its_flags_promise_it() -> None:
    """PyTorch held to AVX2, where the processor may have more: a product in bf16 takes many times as long as
    in fp32."""
    code = (
        "import torch; from newleaf.kernels.matmul_speed import bf16_is_faster; "
        "print(bf16_is_faster(torch.device('cpu')))"
    )
    held = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | held, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
