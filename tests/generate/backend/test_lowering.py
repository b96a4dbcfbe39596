"""Lowered networks against the network they come from: every way in which members of the line differ, every
number format, every batch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.runner import COMPILING, LoweredRunner
from newleaf.model import GPT, GPTConfig
from newleaf.quant import mxfp4
from newleaf.quant.packed import FORMATS, Format, Packed, pack_rows
from newleaf.quant.packed_layers import packable, put_packed
from newleaf.quant.quantize import quantize

pytest.importorskip("numba")


def config(**fields: object) -> GPTConfig:
    defaults = {
        "vocab_size": 301,
        "context_length": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 48,
        "init_std": 0.2,
    }
    return GPTConfig.from_dict(defaults | fields)


QWEN3 = {
    "n_kv_head": 2, "head_dim": 16, "n_inner": 80, "norm": "rms_norm", "qk_norm": True, "positions": "rotary",
    "activation": "silu", "gated": True, "attention_bias": False, "attention_out_bias": False,
    "feedforward_bias": False,
}  # fmt: skip
CASES = {
    "gpt1": config(block="post_norm", final_norm=False),
    "gpt1 with sinusoids and exact gelu": config(
        block="post_norm", final_norm=False, positions="sinusoidal", activation="gelu",
    ),
    "gpt2": config(),
    "gpt2 with scores scaled by depth": config(scale_by_depth=True),
    "gpt2 of an odd width": config(n_embd=40, n_head=5, n_inner=70, activation="relu", tie_embeddings=False),
    "gpt_neo with windows": config(n_embd=30, n_head=3, windows=(0, 7), attention_bias=False,
    attention_scale=1.0),
    "gptj": config(
        block="parallel", shared_norm=True, positions="rotary", rotary_dim=4, rotary_interleaved=True,
        tie_embeddings=False, head_bias=True,
        attention_bias=False, attention_out_bias=False,
    ),
    "gpt_neox": config(block="parallel", positions="rotary", rotary_dim=6, activation="gelu",
    tie_embeddings=False),
    "llama": config(**QWEN3 | {"qk_norm": False, "head_dim": 10, "n_kv_head": 1}),
    "qwen3": config(**QWEN3),
    "gpt_oss": config(
        **QWEN3 | {"qk_norm": False, "head_dim": 12, "activation": "clamped_swiglu", "feedforward_bias": True,
        "attention_bias": True},
        n_expert=6, n_expert_active=2, sinks=True, windows=(9, 0), yarn_factor=4.0, yarn_context=16,
        tie_embeddings=False,
    ),
}  # fmt: skip

# Rounding may tip a router's choice between two experts, and then everything differs: where rounding is
# measured, all experts are chosen.
ALL_EXPERTS = CASES["gpt_oss"].replace(n_expert_active=6)


def network(shape: GPTConfig) -> GPT:
    """Every weight random, biases, norms and sinks too."""
    torch.manual_seed(3)
    made = GPT(shape).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return made


def packed(made: GPT, format: Format | str) -> GPT:
    plain = dict(made.state_dict())
    for name in packable(made):
        put_packed(
            made,
            name,
            quantize(plain[name], format) if isinstance(format, Format) else PACKERS[format](plain[name]),
        )
    return made


def with_minimums(weight: torch.Tensor, bits: int) -> Packed:
    """As GGUF's Q4_1: codes are counted from each group's least weight."""
    groups = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % 32)).unflatten(-1, (-1, 32))
    least = groups.amin(-1).half()
    scales = ((groups.amax(-1) - least) / (2**bits - 1)).half()
    codes = (
        ((groups - least.float()[..., None]) / scales.float()[..., None])
        .round()
        .clamp(0, 2**bits - 1)
        .to(torch.uint8)
    )
    return replace(pack_rows(codes.flatten(-2), scales, Format(bits, 32), least), shape=tuple(weight.shape))


def as_mxfp4(weight: torch.Tensor) -> Packed:
    """The nearest of MXFP4's values, with scales that are powers of two."""
    groups = torch.nn.functional.pad(weight, (0, -weight.shape[-1] % 32)).unflatten(-1, (-1, 32))
    scales = torch.exp2((groups.abs().amax(-1) / 6).clamp(min=2.0**-14).log2().ceil())
    values = torch.tensor(mxfp4.VALUES)
    codes = ((groups / scales[..., None])[..., None] - values).abs().argmin(-1).to(torch.uint8)
    doubled = tuple(int(2 * value) for value in mxfp4.VALUES)
    return replace(
        pack_rows(codes.flatten(-2), scales.half(), Format(4, 32), factor=0.5, values=doubled),
        shape=tuple(weight.shape),
    )


PACKERS: dict[str, Callable[[torch.Tensor], Packed]] = {
    "int8": lambda weight: quantize(weight, FORMATS["int8"]),
    "int4": lambda weight: quantize(weight, FORMATS["int4"]),
    "8 bits with minimums": lambda weight: with_minimums(weight, 8),
    "4 bits with minimums": lambda weight: with_minimums(weight, 4),
    "mxfp4": as_mxfp4,
}
GROUPS = {name: 64 if name == "int8" else 32 for name in PACKERS}


def read(runner: LoweredRunner, ids: torch.Tensor, slot: int = 0) -> torch.Tensor:
    """Logits [T, V] of a text that is read one token at a time."""
    return torch.stack(
        [runner.step([token], [position], [slot])[0].clone() for position, token in enumerate(ids.tolist())]
    )


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_lowered_network_gives_the_networks_own_logits(case: str) -> None:
    made = network(CASES[case])
    ids = torch.randint(301, (40,))
    wanted = made(ids[None])[0]
    found = read(LoweredRunner(made, threads=2), ids)
    assert float((found - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))


def largest_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """In units of the wanted logits' standard deviation."""
    return float((found - wanted).abs().max() / wanted.std())


def usual_difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).square().mean().sqrt() / wanted.std())


@pytest.mark.parametrize("name", PACKERS)
@torch.no_grad()
def test_packed_products_are_exact_up_to_the_rounding_of_their_inputs(name: str) -> None:
    """A layer that adds nothing leaves embedding, norm and head, whose inputs are rounded here as the kernels
    say they do."""
    shape = config(n_layer=1, n_embd=96, tie_embeddings=False)
    made = packed(network(shape), name)
    plain = network(shape)
    for layer in (made.blocks[0], plain.blocks[0]):
        layer.attention.out = torch.nn.Linear(96, 96)
        for part in (layer.attention.out, layer.feedforward.down):
            for tensor in (
                *part.parameters(),
                *(buffer for key, buffer in part.named_buffers() if key in ("scales", "minimums")),
            ):
                tensor.zero_()
    ids = torch.randint(301, (5,))
    x = made.embedding.token(ids) + made.embedding.position(torch.arange(5))
    groups = torch.nn.functional.pad(made.final_norm(x), (0, -96 % GROUPS[name])).unflatten(
        -1, (-1, GROUPS[name])
    )
    scale = groups.abs().amax(-1, keepdim=True) / 127
    rounded = ((groups / scale).round() * scale).flatten(-2)[:, :96]
    wanted = rounded @ made.head.packed.unpack().T
    assert largest_difference(read(LoweredRunner(made, threads=2), ids), wanted) < 1e-4


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gpt_oss"])
@pytest.mark.parametrize("name", ["int8", "int4", "mxfp4"])
@torch.no_grad()
def test_a_packed_network_differs_by_the_rounding_of_its_inputs_only(case: str, name: str) -> None:
    """Each input is off by up to 1/254 of its group's largest, about 1 % of a usual one; random layers add
    these up."""
    made = packed(network(ALL_EXPERTS if case == "gpt_oss" else CASES[case]), name)
    ids = torch.randint(301, (30,))
    assert 0 < usual_difference(read(LoweredRunner(made, threads=2), ids), made(ids[None])[0]) < 0.08


@pytest.mark.parametrize("case", ["gpt1", "gptj", "gpt_oss"])
@torch.no_grad()
def test_bf16_weights_are_used_exactly(case: str) -> None:
    """Against fp32 arithmetic with the same weights; keys and values are rounded to bf16, by 1/512 of
    each."""
    made = network(ALL_EXPERTS if case == "gpt_oss" else CASES[case]).bfloat16()
    ids = torch.randint(301, (30,))
    assert usual_difference(read(LoweredRunner(made, threads=1), ids), made.float()(ids[None])[0]) < 0.03


@pytest.mark.parametrize("case", ["gpt2", "qwen3", "gpt_oss"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int4"])
@torch.no_grad()
def test_a_row_is_the_same_bit_for_bit_whatever_else_is_in_the_step_and_on_however_many_threads(
    case: str, weights: str
) -> None:
    made = network(CASES[case])
    made = (
        packed(made, FORMATS["int4"]) if weights == "int4" else made.bfloat16() if weights == "bf16" else made
    )
    texts = torch.randint(301, (7, 12))
    alone = [read(LoweredRunner(made, threads=1), text) for text in texts]
    together = LoweredRunner(made, slots=7, threads=2)
    for position in range(12):
        logits = together.step(texts[:, position].tolist(), [position] * 7, list(range(7)))
        for slot in range(7):
            assert torch.equal(logits[slot], alone[slot][position])


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_prompt_read_at_once_continues_like_one_read_token_by_token(case: str) -> None:
    made = network(CASES[case])
    ids = torch.randint(301, (25,))
    runner = LoweredRunner(made, slots=2, threads=2)
    wanted = made(ids[None])[0]
    found = runner.read(1, ids[:21].tolist())
    assert float((found - wanted[20]).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
    for position in range(21, 25):
        found = runner.step([int(ids[position])], [position], [1])[0]
        assert float((found - wanted[position]).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", ["int4", "mxfp4"])
@torch.no_grad()
def test_a_packed_prompt_is_read_bit_for_bit_as_token_by_token(name: str) -> None:
    made = packed(network(CASES["qwen3"]), name)
    ids = torch.randint(301, (60,))
    one_by_one = read(LoweredRunner(made, threads=1), ids)[-1]
    assert torch.equal(LoweredRunner(made, slots=2, threads=2).read(1, ids.tolist()), one_by_one)


@torch.no_grad()
def test_memory_grows_with_the_text_and_not_with_the_context() -> None:
    made = network(CASES["qwen3"].replace(context_length=100_000))
    runner = LoweredRunner(made, threads=1)
    before = runner.pages.nbytes
    ids = torch.randint(301, (500,))
    found = runner.read(0, ids.tolist())
    assert torch.allclose(found, made(ids[None])[0, -1], atol=1e-3)
    a_token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, dimensions, bytes
    assert before <= 32 * a_token
    assert 500 * a_token <= runner.pages.nbytes <= 1100 * a_token


@pytest.mark.parametrize("case", ["gpt_oss", "gpt2"])
@pytest.mark.parametrize("kind", ["kernels", "network", "network, 8 bits"])
@torch.no_grad()
def test_texts_of_unlike_lengths_are_written_side_by_side_and_forked(case: str, kind: str) -> None:
    """Each as the network itself reads it; a fork goes on by itself, and what one reads leaves the other
    alone."""
    made = network(CASES[case])
    texts = [torch.randint(301, (length,)).tolist() for length in (35, 3, 40)]
    cache = torch.int8 if kind.endswith("bits") else None
    slots: Executor = (
        LoweredExecutor(LoweredRunner(made, 5, threads=2))
        if kind == "kernels"
        else ModuleExecutor(made, 5, cache=cache)
    )
    near = 0.1 if kind.endswith("bits") else 1e-3

    def check(found: torch.Tensor, *wanted: list[int]) -> None:
        for row, ids in zip(found, wanted, strict=True):
            logits = made(torch.tensor([ids]))[0, -1]
            assert (row - logits).square().mean().sqrt() < near * logits.std()

    check(slots.run([TokenChunk(slot, 0, text, 1) for slot, text in enumerate(texts)]), *texts)
    slots.fork(0, 3, 35)
    slots.fork(2, 4, 40)
    slots.release(1)
    check(
        slots.run([TokenChunk(0, 35, [8], 1), TokenChunk(3, 35, [9], 1), TokenChunk(2, 40, [7, 6], 2),
        TokenChunk(4, 40, [5], 1)]),
        [*texts[0], 8], [*texts[0], 9], [*texts[2], 7], [*texts[2], 7, 6], [*texts[2], 5],
    )  # fmt: skip
    check(
        slots.run([TokenChunk(3, 36, [2], 1), TokenChunk(0, 36, [1], 1)]),
        [*texts[0], 9, 2],
        [*texts[0], 8, 1],
    )


def test_kept_kernels_are_compiled_anew_when_a_source_that_they_use_changes(tmp_path: Path) -> None:
    import newleaf

    package = tmp_path / "newleaf"
    shutil.copytree(
        Path(newleaf.__file__).parent / "kernels",
        package / "kernels",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "__init__.py").write_text("")
    shutil.copy(Path(newleaf.__file__).parent / "errors.py", package)
    (package / "kernels" / "step.py").write_text(
        "from newleaf.kernels.compiler import kernel\n@kernel\ndef step(x):\n    return x + 1\n"
    )
    (package / "kernels" / "entry.py").write_text(
        "from newleaf.kernels.compile_cache import cached_kernel\nfrom newleaf.kernels.step import step\n"
        "@cached_kernel\ndef entry(x):\n    return step(x)\n"
    )
    program = "from newleaf.kernels.entry import entry; print(entry(1), sum(entry.stats.cache_hits.values()))"

    def run() -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert [run(), run()] == ["2 0", "2 1"]
    (package / "kernels" / "step.py").write_text(
        "from newleaf.kernels.compiler import kernel\n@kernel\ndef step(x):\n    return x + 2\n"
    )
    assert run() == "3 0"


def test_rows_that_do_not_fit_are_refused() -> None:
    runner = LoweredRunner(network(CASES["gpt2"]), threads=1)
    for tokens, positions, slots in (
        ([301], [0], [0]),
        ([0], [64], [0]),
        ([0], [0], [1]),
        ([], [], []),
        ([0] * 65, [0] * 65, [0] * 65),
    ):
        with pytest.raises(ValueError, match=r"do not fit|takes 1 to 64 rows"):
            runner.step(tokens, positions, slots)


def test_python_ends_well_while_threads_wait_or_have_just_worked() -> None:
    program = """
import torch
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.model import GPT, GPTConfig
runners = [LoweredRunner(GPT(GPTConfig(64, 16, 1, 2, 32)).eval(), threads=2) for _ in range(3)]
runners[1].step([1], [1], [0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.replace(COMPILING, "").strip()) == (0, "")
