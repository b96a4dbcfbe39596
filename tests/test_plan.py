"""Plans on paper: published facts come out of the formulas, and the formulas agree with networks that are
really built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from newleaf.cli.main import main
from newleaf.errors import InputError
from newleaf.families import FAMILIES
from newleaf.model import GPT, GPTConfig
from newleaf.model.count import count_parameters
from newleaf.plan import DEVICES, Machine, layer_activation_bytes, plan
from newleaf.train.size_from_budget import USEFUL_SHARE

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_closed_form_counts_equal_those_of_networks_built_without_memory(family: object) -> None:
    shapes = list(getattr(family, "sizes").values())  # noqa: B009 - a fixture's type
    for config in shapes:
        with torch.device("meta"):
            network = GPT(config)
        counts = count_parameters(config)
        assert counts.total == network.parameter_count()
        assert counts.block == sum(p.numel() for p in network.blocks[0].parameters())
        tables = [module for module in network.modules() if isinstance(module, torch.nn.Embedding)]
        head = 0 if config.tie_embeddings else network.head.weight.numel()
        assert counts.embedding == sum(table.weight.numel() for table in tables) + head


@pytest.mark.parametrize(
    "changes",
    [
        {"gated": True}, {"norm": "rms_norm"}, {"qk_norm": True}, {"n_kv_head": 2}, {"tie_embeddings": False,
        "head_bias": True},
        {"block": "parallel", "shared_norm": True}, {"feedforward_bias": False}, {"attention_bias": False},
        {"attention_out_bias": False},
        {"final_norm": False}, {"head_bias": True}, {"positions": "sinusoidal"}, {"positions": "rotary"},
        {"head_dim": 6, "n_inner": 50},
    ],
    ids=str,
)  # fmt: skip
def test_every_choice_that_changes_a_count_is_counted(changes: dict[str, object]) -> None:
    config = GPTConfig(101, 16, 3, 4, 32, **changes)
    with torch.device("meta"):
        assert count_parameters(config).total == GPT(config).parameter_count()


def test_published_counts_are_exact() -> None:
    """Brown et al. 2020, Wang 2021 and Black et al. 2022."""
    assert plan("gptj-6b")["parameters"] == 6_050_882_784
    assert plan("gpt-neox-20b")["parameters"] == 20_554_567_680
    assert [round(plan(f"gpt3-{size}")["parameters"], -7) / 1e6 for size in ("350m", "1.3b", "2.7b")] == [
        360,
        1320,
        2650,
    ]
    assert round(plan("gpt3-350m")["parameters"] / 1e6) == 356


def test_gpt_oss_has_the_total_and_active_counts_of_its_model_card() -> None:
    """https://arxiv.org/abs/2508.10925, table 1, in billions."""
    published = {"gpt-oss-20b": (20.91, 3.61), "gpt-oss-120b": (116.83, 5.13)}
    for name, (total, active) in published.items():
        found = plan(name)
        assert round(found["parameters"] / 1e9, 2) == total
        assert round(found["active_parameters"] / 1e9, 2) == active
        assert found["flops_per_token"] == 6 * found["active_parameters"]
        assert "guess" in found.figures["compute_optimal_tokens"].formula


def test_gpt3_took_the_papers_flops() -> None:
    """Table D.1: 300 billion tokens of training for each size."""
    paper = {
        "125m": 2.25e20,
        "350m": 6.41e20,
        "760m": 1.37e21,
        "1.3b": 2.38e21,
        "2.7b": 4.77e21,
        "6.7b": 1.20e22,
        "13b": 2.31e22,
    }
    assert f"{plan('gpt3-175b', tokens=300e9)['training_flops']:.2e}" == "3.14e+23"
    for size, flops in paper.items():
        assert plan(f"gpt3-{size}", tokens=300e9)["training_flops"] == pytest.approx(flops, rel=0.015), size


def test_a_megatron_run_of_gpt3_takes_the_published_month() -> None:
    """Narayanan et al. 2021 (https://arxiv.org/abs/2104.04473, section 5.1): 34 days on 1,024 A100s at 140
    TFLOP/s, by 8 FLOPs a weight.

    They recompute activations, so 6/8 of their FLOPs are the model's.
    """
    mfu = 140e12 / DEVICES["a100"].flops * 6 / 8
    assert plan("gpt3-175b", gpus=1024, gpu="a100", tokens=300e9, mfu=mfu)["days"] == pytest.approx(
        34, abs=0.5
    )


def test_attention_flops_are_palms_formula_and_windows_save_some() -> None:
    config = GPTConfig(1000, 512, 6, 4, 64)
    extra = 12 * 6 * 64 * 512  # 12·L·H·Q·T
    found = plan(config)
    assert found["flops_per_token_with_attention"] - found["flops_per_token"] == extra
    windowed = plan(config.replace(windows=(0, 128) * 3))
    assert windowed["flops_per_token_with_attention"] - windowed["flops_per_token"] == extra * (512 + 128) / (
        2 * 512
    )


def test_compute_optimal_tokens_are_chinchillas() -> None:
    """Hoffmann et al. 2022: 1.4 trillion tokens for 70 billion parameters."""
    found = plan("gptj-6b")
    assert found["compute_optimal_tokens"] == found["tokens"] == pytest.approx(6_050_882_784 * 1.4e12 / 70e9)
    assert plan("gptj-6b", tokens=7)["tokens"] == 7


def test_activations_of_a_gpt_with_dropout_are_those_of_korthikanti() -> None:
    """s·b·h·(34 + 5·a·s/h) bytes a layer, and 34·s·b·h without the scores."""
    config = GPTConfig(1000, 256, 3, 4, 64, attention_dropout=0.1, residual_dropout=0.1)
    assert layer_activation_bytes(config) == 64 * (34 + 5 * 4 * 256 / 64)
    assert layer_activation_bytes(config, scores=False) == 64 * 34
    found = plan(config)
    assert found["activations"] == 3 * 256 * 64 * (34 + 5 * 4 * 256 / 64)
    assert found["activations_flash"] == 3 * 256 * 64 * 34
    assert found["activations_checkpointed"] == 256 * 64 * (2 * 3 + 34)


@pytest.mark.parametrize("gated", [False, True])
def test_what_autograd_keeps_is_what_the_formula_says(gated: bool) -> None:
    """The tensors that PyTorch itself saves for the backward of a layer written with its own functions, in
    bf16."""
    config = GPTConfig(1000, 128, 1, 4, 64, gated=gated)
    shape = {"dtype": torch.bfloat16, "requires_grad": True}
    x = torch.randn(128, 64, **shape)
    weights = [
        torch.randn(rows, columns, **shape)
        for rows, columns in [(64, 64)] * 4 + [(256, 64), (64, 256), (256, 64)]
    ]
    ours = {w.untyped_storage().data_ptr() for w in weights}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        # not weights, not statistics of the norms
        if storage.data_ptr() not in ours and storage.nbytes() >= 128 * 64:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        read = torch.nn.functional.layer_norm(x, (64,))
        q, k, v = ((read @ weight.T).view(128, 4, 16).transpose(0, 1).contiguous() for weight in weights[:3])
        mixed = (q @ k.mT).softmax(-1) @ v
        x = x + mixed.transpose(0, 1).reshape(128, 64) @ weights[3].T
        read = torch.nn.functional.layer_norm(x, (64,))
        up = read @ weights[4].T
        hidden = torch.nn.functional.silu(read @ weights[6].T) * up if gated else torch.nn.functional.gelu(up)
        x = x + hidden @ weights[5].T
    assert sum(kept.values()) == 128 * layer_activation_bytes(config)


def test_fsdp_divides_the_state_of_16_bytes_a_parameter_and_ddp_does_not() -> None:
    """Rajbhandari et al. 2020: 7.5 billion parameters are 120 GB, and 1.9 GB on each of 64 devices (figure
    1)."""
    found, parts = plan("gpt3-6.7b", gpus=64), ("weights", "gradients", "optimizer")
    ddp, fsdp = (sum(found[f"{kind}_{part}"] for part in parts) for kind in ("ddp", "fsdp"))
    assert ddp / found["parameters"] * 7.5e9 == pytest.approx(120e9)
    assert fsdp / found["parameters"] * 7.5e9 == pytest.approx(1.9e9, rel=0.02)
    assert found["ddp_total"] == ddp + found["activations_checkpointed"]
    assert found["fsdp_total"] == fsdp + found["fsdp_gathered"] + found["activations_checkpointed"]
    assert found["fsdp_gathered"] == 4 * (50_257 + 2048) * 4096  # of the two, the larger is the embedding
    # and here a layer
    assert plan("gpt3-175b", gpus=8)["fsdp_gathered"] == 4 * (12 * 12_288**2 + 10 * 12_288)
    alone = plan("gpt3-6.7b")
    assert alone["fsdp_total"] == alone["ddp_total"]


def test_the_kv_cache_is_as_large_as_the_one_that_is_built() -> None:
    config = GPTConfig(100, 32, 3, 4, 64, n_kv_head=2)
    from newleaf.model import KVCache

    cache = KVCache(config, 1, dtype=torch.bfloat16)
    network = GPT(config).bfloat16().eval()
    with torch.no_grad():
        network(torch.randint(0, 100, (1, 32)), cache=cache)
    found = plan(config)
    assert found["kv_cache_full"] == cache.keys.nbytes + cache.values.nbytes
    assert found["kv_cache_full"] == 32 * found["kv_cache_per_token"] == 32 * 2 * 2 * 3 * 2 * 16
    assert plan("gpt3-175b")["kv_cache_per_token"] == 2 * 2 * 96 * 12288
    assert plan(config.replace(windows=(8, 0, 8)))["kv_cache_full"] == (8 + 32 + 8) * 2 * 2 * 2 * 16


def test_a_folder_plans_as_its_size_does(tmp_path: Path) -> None:
    fields = {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_layer": 28,
    }
    fields |= {"n_head": 16, "n_embd": 4096, "rotary_dim": 64, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert plan(tmp_path).figures == plan("GPTJ-6B").figures


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["gpt3-157b"], "did you mean gpt3-175b?"),
        (["gpt2-124m", "--gpu", "h10"], "did you mean h100?"),
        (["gpt2-124m", "--gpus", "0"], "gpus"),
        (["gpt2-124m", "--mfu", "1.5"], "mfu"),
        (["gpt2-124m", "--tokens", "soon"], "tokens"),
        (["--gpus", "3"], "lists the sizes"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from newleaf.cli.main import main

    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.splitlines()) == 1
    with pytest.raises(InputError):
        plan("gpt3-157b")


def newleaf(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "newleaf", *words], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_prints_counts_beside_the_papers_and_gives_every_number_its_formula() -> None:
    shown = newleaf("plan", "gpt3-350m", "--gpus", "8", "--gpu", "a100", "--tokens", "300B")
    assert "published as 350M" in shown
    assert "355,798,016" in shown
    found = json.loads(newleaf("plan", "gpt3-175b", "--gpus", "1024", "--tokens", "300b", "--json"))
    assert found["figures"]["training_flops"]["value"] == pytest.approx(3.14e23, rel=0.002)
    assert all(figure["formula"] for figure in found["figures"].values())
    rows = json.loads(newleaf("plan", "--json"))
    published = [row["published_as"] for row in rows if row["family"] == "gpt3"]
    assert published == ["125M", "350M", "760M", "1.3B", "2.7B", "6.7B", "13B", "175B"]
    assert [row["size"] for row in rows if row["note"]] == ["gpt3-1.3b", "gpt3-13b"]
    assert len(newleaf("plan").splitlines()) > len(rows)


def test_the_commands_of_the_page_run() -> None:
    lines = [
        line
        for line in (ROOT / "docs" / "plan.md").read_text("utf-8").splitlines()
        if line.startswith("newleaf ") and "--fit" not in line
    ]
    assert len(lines) >= 3
    for line in lines:
        assert newleaf(*line.split("  #")[0].split()[1:])


def test_counting_needs_no_pytorch() -> None:
    check = "import sys; from newleaf.plan import plan; plan('gpt3-175b'); print('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "False"
    )


def test_importing_newleaf_is_enough_for_a_plan_as_the_page_has_it() -> None:
    code = 'import newleaf; print(newleaf.plan.plan("gpt3-175b", gpus=1024)["days"])'
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(found.stdout) == pytest.approx(plan("gpt3-175b", gpus=1024)["days"])


def test_a_plan_for_a_machine_says_the_time_and_memory_that_its_figures_give() -> None:
    machine = Machine(cores=8, memory=16e9, flops=200e9, precision="fp32")
    found = plan("gpt2-124m", tokens=1e9, machine=machine)
    assert found["machine_days"] == pytest.approx(
        found["training_flops_with_attention"] / (200e9 * USEFUL_SHARE) / 86_400
    )
    assert found["machine_memory_to_train"] > 16 * found["parameters"]
    assert found["machine_memory_to_run"] == pytest.approx(found["weights_to_serve"] + found["kv_cache_full"])
    assert "machine_days" not in plan("gpt2-124m").figures


def test_the_command_plans_for_this_machine_unless_accelerators_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "gpt2-124m"]) == 0
    out = capsys.readouterr().out
    assert f"This machine: {len(os.sched_getaffinity(0))} cores" in out
    assert "time to train" in out
    assert main(["plan", "gpt2-124m", "--gpus", "8"]) == 0
    assert "This machine" not in capsys.readouterr().out
