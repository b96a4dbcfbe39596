"""A small network writes a short text by itself, and much text by its lowered program: where it changes over,
texts stay what they are."""

from __future__ import annotations

import os

import pytest
import torch

from newleaf.api import Model
from newleaf.generate.backend import lazy_lowering
from newleaf.generate.backend.executor import LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.lazy_lowering import (
    COMPILE_SECONDS,
    KERNELS,
    LOAD_SECONDS,
    LazyLoweringExecutor,
    kernels_cached,
    open_executor,
)
from newleaf.generate.backend.lowered_program import CannotLower
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

TEXTS = ("a", "a bird", "über alles, auch was länger ist als eine Seite des Speichers", "z")


class Ticking:
    """A clock that a tick moves on by each time it is looked at."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def model() -> Model:
    torch.manual_seed(2)
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    config = GPTConfig(
        tokenizer.vocab_size, 96, 3, 4, 32, n_kv_head=2, windows=(20, 0, 20), positions="rotary", init_std=0.2
    )
    return Model(GPT(config).eval(), tokenizer, "newleaf")


def switching(model: Model, tick: float, kept: bool = True) -> LazyLoweringExecutor:
    def lower() -> LoweredExecutor:
        return LoweredExecutor(LoweredRunner(model.network, 2, threads=1))

    return LazyLoweringExecutor(ModuleExecutor(model.network, 2), lower, lambda: kept, Ticking(tick))


@pytest.mark.parametrize("rounds", [1, 7, 40])
def test_texts_are_the_same_whenever_the_kernels_come(model: Model, rounds: int) -> None:
    """Contexts that fill up and slots that are used again included."""
    config = SamplingConfig(max_tokens=120, min_tokens=120, temperature=0, speculation="off")
    slots = switching(model, LOAD_SECONDS / rounds)
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        requests = [engine.submit(text, config) for text in TEXTS]
        found = ["".join(piece.text for piece in request) for request in requests]
    assert isinstance(slots.slots, LoweredExecutor)
    with Engine(model.network, model.tokenizer, executor=ModuleExecutor(model.network, 1)) as engine:
        assert found == ["".join(piece.text for piece in engine.submit(text, config)) for text in TEXTS]


def test_searches_go_on_where_the_kernels_come(model: Model) -> None:
    wanted = model.complete("a bird", beams=5, n=5, max_tokens=30, temperature=0)
    slots = switching(model, LOAD_SECONDS / 5)
    pieces = list(
        Engine(model.network, model.tokenizer, executor=slots).write(
            "a bird", SamplingConfig(beams=5, n=5, max_tokens=30, temperature=0)
        )
    )
    assert isinstance(slots.slots, LoweredExecutor)
    assert [piece.text for piece in pieces if piece.end] == [each.text for each in wanted]


def test_kernels_come_once_writing_has_taken_as_long_as_they_take(model: Model) -> None:
    for kept, seconds in ((True, LOAD_SECONDS), (False, COMPILE_SECONDS)):
        slots = switching(model, seconds / 10, kept)
        for place in range(10):
            assert isinstance(slots.slots, ModuleExecutor)
            slots.run([TokenChunk(0, place, [1], 1)])
        wanted = model.network(torch.tensor([[1] * 11]))[0, -1]
        assert torch.allclose(slots.run([TokenChunk(0, 10, [1], 1)])[0], wanted, atol=1e-4)
        assert isinstance(slots.slots, LoweredExecutor)


def test_cached_kernels_are_found_where_numba_keeps_them(model: Model) -> None:
    if os.environ.get("NUMBA_CACHE_DIR"):
        pytest.skip("the cache is elsewhere")
    LoweredRunner(model.network, 1, threads=1).step((1,), (0,), (0,), 1)
    assert (KERNELS / "interpreter.py").exists()
    assert kernels_cached()


def test_a_network_without_a_program_goes_on_as_it_is(model: Model) -> None:
    def cannot() -> LoweredExecutor:
        raise CannotLower("it is to be tried")

    slots = LazyLoweringExecutor(
        ModuleExecutor(model.network, 1), cannot, lambda: True, Ticking(LOAD_SECONDS)
    )
    for place in range(5):
        slots.run([TokenChunk(0, place, [1], 1)])
    assert isinstance(slots.slots, ModuleExecutor)


def test_what_is_to_write_much_has_its_kernels_at_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    # whatever else runs here
    monkeypatch.setattr(lazy_lowering, "lowering_pays_at_once", lambda executor: False)
    assert isinstance(open_executor(model.network, 1, None), LazyLoweringExecutor)
    assert isinstance(open_executor(model.network, 1, None, lower_at_once=True), LoweredExecutor)
    assert isinstance(open_executor(model.network, 1, None, deterministic=True), LoweredExecutor)
