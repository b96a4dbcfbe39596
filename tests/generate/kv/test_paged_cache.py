"""Keys and values in 8 bits, and in layer groups that windows bound: against bf16 or fp32 caches, and against
the arithmetic itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from newleaf.api import Model, load
from newleaf.errors import InputError
from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.engine.engine import Engine
from newleaf.generate.kernels.layout import PAGE
from newleaf.generate.kv.layer_groups import layer_groups_of
from newleaf.generate.kv.paged_cache import MAX_PASSED_PAGES, OutOfPagesError, PagedCache
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig, KVCache
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

pytest.importorskip("numba")

GROUPED = {
    "n_kv_head": 2,
    "head_dim": 24,
    "positions": "rotary",
    "norm": "rms_norm",
    "qk_norm": True,
    "init_std": 0.2,
}


def network(**fields: object) -> GPT:
    torch.manual_seed(5)
    return GPT(
        GPTConfig.from_dict(
            {"vocab_size": 257, "context_length": 256, "n_layer": 2, "n_head": 4, "n_embd": 48, **fields}
        )
    ).eval()


SHAPES = {
    "grouped, of an odd width": GROUPED,
    "windows and sinks": GROUPED
    | {"n_layer": 3, "windows": (40, 0, 40), "sinks": True, "yarn_factor": 4.0, "yarn_context": 64},
    "heads apart, learned": {"init_std": 0.2},
    "heads of three groups": {"n_head": 2, "head_dim": 80, "init_std": 0.2},
}


def rounded(x: torch.Tensor) -> torch.Tensor:
    """What 8 bits keep of vectors [..., D]: 255 steps of a 127th of the largest."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return (x / scale).round() * scale


def rounded_keys(x: torch.Tensor) -> torch.Tensor:
    """Keys are rounded in groups of 32."""
    return torch.cat([rounded(part) for part in x.split(32, dim=-1)], dim=-1)


class RoundedCache(KVCache):
    """The reference: plain fp32 numbers that were rounded."""

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().append(layer, rounded_keys(keys), rounded(values))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_kernels_and_network_compute_with_numbers_rounded_to_8_bits_once(shape: str) -> None:
    made = network(**SHAPES[shape])
    ids = torch.randint(257, (90,))
    reference, ours = RoundedCache(made.config, 1), KVCache(made.config, 1, dtype=torch.int8)
    runner = LoweredRunner(made, threads=2, cache=torch.int8)
    for position, token in enumerate(ids.tolist()):
        wanted = made(ids[None, position : position + 1], cache=reference)[0, 0]
        assert torch.allclose(made(ids[None, position : position + 1], cache=ours)[0, 0], wanted, atol=1e-4)
        # A code that stands between two is rounded either way, and the query is kept to 1/32,000 of its
        # largest.
        assert float((runner.step([token], [position], [0])[0] - wanted).abs().max()) < 0.02 * float(
            wanted.std()
        )


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_8_bits_move_logits_by_a_little(shape: str) -> None:
    """Random networks are the worst case: every key counts. Keys and values are off by up to 1/254 of their
    largest."""
    made = network(**SHAPES[shape])
    ids = torch.randint(257, (90,)).tolist()
    wanted = made(torch.tensor([ids]))[0, -1]
    lowered = LoweredExecutor(LoweredRunner(made, threads=2, cache=torch.int8))
    for slots in (lowered, ModuleExecutor(made, 1, cache=torch.int8)):
        for first in range(0, len(ids), 30):
            found = slots.run([TokenChunk(0, first, ids[first : first + 30], 1)])[-1]
        assert 0 < float((found - wanted).square().mean().sqrt() / wanted.std()) < 0.03


@torch.no_grad()
def test_a_prompt_read_at_once_leaves_the_codes_of_one_read_token_by_token() -> None:
    made = network(**GROUPED, context_length=600)
    ids = torch.randint(257, (500,)).tolist()
    runner = LoweredRunner(made, slots=2, threads=2, cache=torch.int8)
    found = runner.read(0, ids).clone()
    for position, token in enumerate(ids):
        wanted = runner.step([token], [position], [1])[0]
    assert float((found - wanted).abs().max()) < 0.02 * float(wanted.std())


def test_memory_of_8_bits_is_counted_with_its_scales() -> None:
    config = network(**SHAPES["heads apart, learned"]).config.replace(head_dim=64)
    pages = {
        kind: PagedCache(config, kind, 1, 256, limit=1 << 20)
        for kind in (torch.float32, torch.bfloat16, torch.int8)
    }
    a_token = {
        kind: 2 * 2 * 4 * size
        for kind, size in ((torch.float32, 256), (torch.bfloat16, 128), (torch.int8, 64 + (8 + 4) / 2))
    }
    for kind, made in pages.items():
        made.reserve(0, 0, PAGE)
        assert made.nbytes == made.page_bytes == PAGE * a_token[kind]
        assert made.most == (1 << 20) // (PAGE * a_token[kind])
    assert KVCache(config, 1, 1, torch.int8).nbytes == a_token[torch.int8]


def test_layers_with_like_windows_share_pages_of_one_size() -> None:
    found = layer_groups_of(GPTConfig(64, 512, 6, 2, 32, windows=(9, 0, 9, 0, 9, 600)))
    assert [(layer_group.layers, layer_group.window) for layer_group in found] == [
        ((1, 3, 5), 0),
        ((0, 2, 4), 9),
    ]
    assert [
        layer_group.window for layer_group in layer_groups_of(GPTConfig(64, 512, 3, 2, 32, windows=(9, 0, 9)))
    ] == [0, 9, 9]
    assert [layer_group.layers for layer_group in layer_groups_of(GPTConfig(64, 512, 3, 2, 32))] == [
        (0, 1, 2)
    ]


@torch.no_grad()
def test_windows_bound_memory_and_long_texts_stay_right() -> None:
    made = network(**GROUPED | {"n_layer": 2, "windows": (40, 0), "context_length": 20_000, "head_dim": 16})
    runner = LoweredRunner(made, threads=1)
    ids = torch.randint(257, (2100,)).tolist()
    runner.read(0, ids[:2040])
    for position in range(2040, 2080):
        found = runner.step([ids[position]], [position], [0])[0]
    assert torch.allclose(
        found, made(torch.tensor([ids[:2080]]), logits_to_keep=torch.tensor([2079]))[0], atol=1e-3
    )
    whole, window = -(-2080 // PAGE), -(-(40 + 256 + 32) // PAGE) + 1
    used = runner.pages.used // runner.pages.page_bytes
    assert whole < used <= whole + window
    assert runner.pages.need(2080) == whole + window


@torch.no_grad()
def test_guesses_that_were_run_one_by_one_are_taken_back_although_windows_have_moved_on() -> None:
    made = network(**GROUPED | {"windows": (40, 0)})
    ids, runner = torch.randint(257, (140,)).tolist(), LoweredRunner(made, threads=1)
    runner.read(0, ids[:100])
    for position in range(100, 132):
        runner.step([7], [position], [0])
    for position in range(100, 104):
        found = runner.step([ids[position]], [position], [0])[0]
    assert torch.allclose(
        found, made(torch.tensor([ids[:104]]), logits_to_keep=torch.tensor([103]))[0], atol=1e-3
    )


@torch.no_grad()
def test_pages_that_windows_passed_are_lent_while_there_are_few_of_them() -> None:
    made = network(**GROUPED | {"windows": (40, 0), "context_length": 20_000})
    pages = PagedCache(made.config, torch.float32, 2, 20_000)
    ids = list(range(20_000))
    for start in range(0, 12_000, 250):
        pages.reserve(0, start, start + 250)
        pages.publish(0, ids[: start + 250])
    assert pages.borrow(1, [*ids[:11_000], 3]) == 11_000 // PAGE * PAGE  # as the windows were there
    owned = pages._owned[1]
    assert (owned[0].passed, owned[0].end, owned[1].end) == (0, 11_000 // PAGE, 11_000 // PAGE)
    assert owned[1].passed == (11_000 // PAGE * PAGE + 1 - 40) // PAGE
    pages.release(1)
    assert pages.borrow(1, ids[:100]) == 0  # what windows have passed long ago is forgotten
    assert len(pages._passed) == MAX_PASSED_PAGES - 2  # those that were lent are like any others now
    assert pages.borrow(1, [*ids[:11_000], 3]) > 0


def test_a_limit_is_kept_and_what_nobody_uses_gives_way() -> None:
    config = network(**GROUPED | {"windows": (40, 0)}).config
    pages = PagedCache(
        config, torch.int8, 2, 256, limit=14 * PagedCache(config, torch.int8, 1, 256).page_bytes
    )
    pages.reserve(0, 0, 160)
    pages.publish(0, list(range(160)))
    with pytest.raises(OutOfPagesError):
        pages.reserve(1, 0, 160)
    pages.release(1)
    pages.release(0)
    pages.reserve(1, 0, 192)
    assert pages.nbytes <= 14 * pages.page_bytes


@pytest.fixture(scope="module")
def model() -> Model:
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    made = network(**GROUPED | {"vocab_size": tokenizer.vocab_size, "windows": (40, 0), "init_std": 0.1})
    return Model(made, tokenizer, "llama", cache="int8")


@pytest.mark.parametrize("kind", ["kernels", "network"])
def test_texts_in_8_bits_are_the_same_alone_together_lent_and_guessed(kind: str, model: Model) -> None:
    """Sixteen prompts of which many begin alike; guesses that are rolled back; windows that are narrower than
    the shared beginning."""
    prompts = ["abc" * 30 + "de"[: n % 3] + "xyz"[n % 2 :] for n in range(8)]
    config = {"max_tokens": 30, "temperature": 0}

    def slots(count: int) -> Executor:
        if kind == "network":
            return ModuleExecutor(model.network, count, cache=torch.int8)
        return LoweredExecutor(
            LoweredRunner(model.network, count, threads=2, cache=torch.int8), deterministic=True
        )

    def write(engine: Engine, some: list[str], speculation: str) -> list[str]:
        texts = ["" for _ in some]
        for piece in engine.write(some, SamplingConfig(**config, speculation=speculation)):
            texts[piece.prompt] += piece.text
        return texts

    with Engine(model.network, model.tokenizer, deterministic=True, executor=slots(1)) as alone:
        wanted = [write(alone, [prompt], "off")[0] for prompt in prompts]
    with Engine(model.network, model.tokenizer, deterministic=True, executor=slots(4)) as together:
        assert write(together, prompts, "auto") == wanted
        assert write(together, prompts, "off") == wanted  # from what is known by now


def test_a_model_opened_with_8_bits_writes_with_them(model: Model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model.save(tmp_path / "m")
    opened = load(tmp_path / "m", cache="int8")
    slots = opened.engine().executor
    assert isinstance(slots, LoweredExecutor)
    assert slots.runner.pages.dtype == torch.int8
    assert opened.generate("ab", max_tokens=8, temperature=0) == model.generate(
        "ab", max_tokens=8, temperature=0
    )
    with pytest.raises(InputError, match="cache: 'int4' is not one of bf16, int8"):
        load(tmp_path / "m", cache="int4")


def test_smollm2_believes_the_same_with_8_bits(shared_data: Path) -> None:
    """Log-probabilities of a text, token by token; greedy texts part where two tokens are nearly as
    likely."""
    smol = shared_data.parent / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    text = (
        "The capital of France is Paris. The sun rises in the east, and two and two are four. Once "
        "upon a time, there was a little girl."
    )
    found = []
    for cache in (None, "int8"):
        (completion,) = load(smol, cache=cache).complete(text, max_tokens=1, temperature=0, prompt_logprobs=0)
        found.append([token.logprob for token in completion.prompt_tokens[1:]])
    plain, coded = (torch.tensor(each) for each in found)
    assert len(plain) > 25
    assert (plain - coded).abs().mean() < 0.05
    assert abs(plain.mean() - coded.mean()) < 0.01 * abs(plain.mean())
