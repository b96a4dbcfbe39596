"""The engine: many requests at once, each as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import torch
from fixed_step_cost import FixedStepCost

from newleaf.api import Model
from newleaf.errors import InputError
from newleaf.generate.backend.executor import Executor, LoweredExecutor, ModuleExecutor, TokenChunk
from newleaf.generate.backend.runner import LoweredRunner
from newleaf.generate.engine.engine import Engine
from newleaf.generate.options import SamplingConfig
from newleaf.model import GPT, GPTConfig
from newleaf.text.train_tokenizer import TokenizerConfig, train_tokenizer

PROMPTS = ["über", "abc" * 20, "", "x" * 70, "abc" * 25, "abc" * 20 + "d"]


@pytest.fixture(scope="module")
def model() -> Model:
    """Random weights, windows in one layer, and raw bytes: almost everything it writes is broken UTF-8."""
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["a"], TokenizerConfig(kind="byte"))
    return Model(
        GPT(GPTConfig(tokenizer.vocab_size, 128, 2, 2, 32, init_std=0.3, windows=(0, 9))).eval(),
        tokenizer,
        "gpt2",
    )


def kernel_slots(
    model: Model, count: int, limit: int | None = None, deterministic: bool = True
) -> LoweredExecutor:
    pytest.importorskip("numba")
    return LoweredExecutor(LoweredRunner(model.network, count, threads=2, limit=limit), deterministic)


@pytest.fixture(params=["kernels", "kernels and products", "network"])
def slots(request: pytest.FixtureRequest, model: Model) -> Iterator[Executor]:
    if request.param == "network":
        yield ModuleExecutor(model.network, 4)
    else:
        yield kernel_slots(model, 4, deterministic=request.param == "kernels")


def text(engine: Engine, prompt: str, **options: object) -> str:
    return "".join(piece.text for piece in engine.submit(prompt, SamplingConfig(**options)))  # type: ignore[arg-type]


def test_requests_together_are_written_as_each_is_alone(model: Model, slots: Executor) -> None:
    """Six texts in four slots, some of which fill the context; the reference is the network, one text at a
    time."""
    options = {"max_tokens": 60, "min_tokens": 50, "temperature": 0.7}
    wanted = [model.generate(prompt, seed=number, **options) for number, prompt in enumerate(PROMPTS)]
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        requests = [
            engine.submit(prompt, SamplingConfig(seed=number, **options))
            for number, prompt in enumerate(PROMPTS)
        ]  # type: ignore[arg-type]
        assert ["".join(piece.text for piece in request) for request in requests] == wanted


def test_a_request_knows_how_much_of_its_prompt_was_read_and_how_much_was_there(model: Model) -> None:
    slots = kernel_slots(model, 4, deterministic=False)
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        first, second = "abc" * 25, "abc" * 25 + "xyz"
        for prompt, there in ((first, False), (second, True)):
            request = engine.submit(prompt, SamplingConfig(max_tokens=2, min_tokens=2))
            list(request)
            assert request.prefill is not None
            assert request.prefill.total == request.prefill.processed == len(model.tokenizer.encode(prompt))
            assert (request.prefill.cached > 0) is there


@torch.no_grad()
def test_deterministic_logits_are_the_same_bit_for_bit_alone_and_in_company(model: Model) -> None:
    """Log-probabilities to the last bit in rounds that are cut differently; the network itself reads in parts
    that are always alike."""
    options = SamplingConfig(max_tokens=40, min_tokens=40, seed=3, logprobs=2)
    for make in (
        lambda: kernel_slots(model, 4),
        lambda: ModuleExecutor(model.network, 4, deterministic=True),
    ):
        with Engine(model.network, model.tokenizer, deterministic=True, executor=make()) as engine:
            alone = [[piece.scores for piece in engine.submit(prompt, options)] for prompt in PROMPTS]
        with Engine(model.network, model.tokenizer, deterministic=True, executor=make()) as engine:
            requests = [engine.submit(prompt, options) for prompt in PROMPTS]
            assert [[piece.scores for piece in request] for request in requests] == alone


def test_what_texts_begin_with_is_read_once(model: Model) -> None:
    """After one text of 100 tokens, a second that begins with 96 of them has 4 left to read; windows do not
    matter."""
    slots = kernel_slots(model, 4)
    read: list[int] = []
    run = slots.run

    def counting(parts: list[TokenChunk]) -> torch.Tensor:
        read.append(sum(len(part.ids) for part in parts))
        return run(parts)

    slots.run = counting  # type: ignore[method-assign, assignment]
    beginning = "0123456789" * 10
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        first = text(engine, beginning, max_tokens=1, temperature=0)
        assert sum(read) == 100
        second = text(engine, beginning[:96] + "abcd", max_tokens=1, temperature=0)
        assert sum(read) == 104
        # Together: the second waits for the first, and borrows.
        requests = [
            engine.submit("z" * 64 + end, SamplingConfig(max_tokens=1, temperature=0)) for end in ("a", "bc")
        ]
        for request in requests:
            list(request)
        assert sum(read) == 104 + 65 + 2
        assert [request.samples[0].cached for request in requests] == [0, 64]
        # Of several texts to one prompt, the first that was read says what was there before.
        several = engine.submit(beginning, SamplingConfig(max_tokens=1, temperature=0, n=3))
        list(several)
        assert min(sample.cached for sample in several.samples) == 96
        fresh = engine.submit("y" * 70, SamplingConfig(max_tokens=1, temperature=0, n=3))
        list(fresh)
        assert sorted(sample.cached for sample in fresh.samples) == [0, 64, 64]
    assert first == model.generate(beginning, max_tokens=1, temperature=0)
    assert second == model.generate(beginning[:96] + "abcd", max_tokens=1, temperature=0)


def test_memory_bounds_how_many_texts_are_written_at_once(model: Model) -> None:
    """Each text may need three pages of 32 tokens; four fit five times into what there is, so two texts take
    turns with the others."""
    page = 2 * 2 * 2 * 32 * 16 * 4
    slots = kernel_slots(model, 4, limit=6 * page)
    most = 0
    run = slots.run

    def watching(parts: list[TokenChunk]) -> torch.Tensor:
        nonlocal most
        most = max(most, len(parts))
        return run(parts)

    slots.run = watching  # type: ignore[method-assign, assignment]
    options = {"max_tokens": 60, "min_tokens": 60, "temperature": 0}
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        requests = [engine.submit(letter * 20, SamplingConfig(**options)) for letter in "abcde"]  # type: ignore[arg-type]
        found = ["".join(piece.text for piece in request) for request in requests]
        assert found == [model.generate(letter * 20, **options) for letter in "abcde"]
        assert most == 2
        assert slots.runner.pages.nbytes <= 6 * page
    small = kernel_slots(model, 4, limit=2 * page)
    with (
        Engine(model.network, model.tokenizer, executor=small) as engine,
        pytest.raises(InputError, match="more memory for keys and values"),
    ):
        engine.submit("a" * 20, SamplingConfig(max_tokens=60))


def test_requests_are_begun_in_the_order_they_came_and_a_long_prompt_holds_nobody_up(model: Model) -> None:
    slots = kernel_slots(model, 4)
    order: list[int] = []
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        requests = [
            engine.submit(prompt, SamplingConfig(max_tokens=2, temperature=0))
            for prompt in ("a" * 120, "b" * 8, "c" * 8)
        ]
        for number in (1, 2, 0):
            list(requests[number])
            order.append(number)
    assert order == [1, 2, 0]


def test_a_cancelled_request_ends_and_leaves_its_slot_to_others(model: Model, slots: Executor) -> None:
    long = SamplingConfig(max_tokens=10_000, min_tokens=10_000, temperature=1.0, seed=1)
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        requests = [engine.submit("abc", long) for _ in range(6)]  # two of them wait
        for request in requests:
            request.cancel()
        for request in requests:
            assert all(piece.end is None for piece in request)
        for _ in engine.submit("abc", long):
            break  # leaving the loop cancels
        assert text(engine, "ab", max_tokens=9, temperature=0) == model.generate(
            "ab", max_tokens=9, temperature=0
        )
        assert not engine.scheduler.running or engine.scheduler.running[0].request.cancelled


def test_stop_strings_and_several_texts_come_as_from_the_plain_writer(model: Model, slots: Executor) -> None:
    options = {"max_tokens": 50, "min_tokens": 50, "temperature": 1.0, "seed": 3}
    whole = model.generate("a", **options)
    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        assert text(engine, "a", stop=(whole[7:9],), **options) == whole[: whole.index(whole[7:9])]
        pieces = list(engine.submit("a", SamplingConfig(n=3, **options)))  # type: ignore[arg-type]
        assert ["".join(p.text for p in pieces if p.sample == n) for n in range(3)] == model.generate(
            "a", n=3, **options
        )
        best = list(engine.submit("a", SamplingConfig(best_of=4, n=2, **options)))  # type: ignore[arg-type]
        assert [piece.text for piece in best] == model.generate("a", n=2, best_of=4, **options)


def test_an_event_loop_gets_the_same_pieces(model: Model, slots: Executor) -> None:
    config = SamplingConfig(max_tokens=40, min_tokens=40, temperature=1.0, seed=4)

    async def both(engine: Engine) -> list[str]:
        async def one(prompt: str) -> str:
            return "".join([piece.text async for piece in engine.stream(prompt, config)])

        return await asyncio.gather(one("a"), one("über"))

    with Engine(model.network, model.tokenizer, executor=slots) as engine:
        assert asyncio.run(both(engine)) == [
            text(engine, prompt, max_tokens=40, min_tokens=40, seed=4, temperature=1.0)
            for prompt in ("a", "über")
        ]


def test_guesses_change_no_text_whatever_the_temperature(model: Model) -> None:
    """This network's greedy text soon repeats itself: then most tokens come from guesses, in a fraction of
    the rounds."""
    torch.manual_seed(1)
    shape = GPTConfig(model.tokenizer.vocab_size, 256, 2, 2, 32, positions="rotary", tie_embeddings=False)
    model = Model(GPT(shape).eval(), model.tokenizer, "newleaf")
    for options in ({"temperature": 0}, {"temperature": 0.3, "seed": 5}):
        rounds: dict[str, int] = {}
        texts = {}
        for speculation in ("off", "auto"):
            slots = kernel_slots(model, 4)
            run, count = slots.run, [0]

            def counting(
                parts: list[TokenChunk], run: object = run, count: list[int] = count
            ) -> torch.Tensor:
                count[0] += 1
                return run(parts)  # type: ignore[operator, no-any-return]

            slots.run = counting  # type: ignore[method-assign, assignment]
            with Engine(model.network, model.tokenizer, executor=slots) as engine:
                engine.speculator.step_cost = FixedStepCost(1.0, 0.1)
                texts[speculation] = text(
                    engine, "abcabcabc", max_tokens=100, min_tokens=100, speculation=speculation, **options
                )
            rounds[speculation] = count[0]
        assert texts["auto"] == texts["off"]
        if not options["temperature"]:
            assert rounds["auto"] < rounds["off"] / 1.8


def test_what_the_engine_does_not_do_is_refused(model: Model) -> None:
    with Engine(model.network, model.tokenizer) as engine:
        with pytest.raises(InputError, match="beams: needs 18 slots, and this engine has 16"):
            engine.submit("a", SamplingConfig(beams=9, temperature=0, guidance_scale=2.0))
        with pytest.raises(InputError, match="leaves no room to write"):
            engine.submit("a" * 128, SamplingConfig())
        with pytest.raises(InputError, match="ids do not fit"):
            engine.submit([1, 100_000], SamplingConfig())
    with pytest.raises(InputError, match="the engine is closed"):
        engine.submit("a", SamplingConfig())
    with pytest.raises(InputError, match="speculation: 'on' is not one of auto, off"):
        SamplingConfig(speculation="on")  # type: ignore[arg-type]


def test_writing_in_the_callers_thread_gives_the_same_and_two_may_take_turns(
    model: Model, slots: Executor
) -> None:
    config = SamplingConfig(max_tokens=40, min_tokens=40, temperature=1.0, seed=4)
    engine = Engine(model.network, model.tokenizer, executor=slots)
    wanted = [
        model.generate(prompt, max_tokens=40, min_tokens=40, temperature=1.0, seed=4)
        for prompt in ("a", "über")
    ]
    one, other, found = engine.write("a", config), engine.write("über", config), ["", ""]
    while pieces := [next(one, None), next(other, None)]:
        if pieces == [None, None]:
            break
        for number, piece in enumerate(pieces):
            found[number] += piece.text if piece else ""
    assert found == wanted
    for _ in engine.write("abc", config):
        break
    pieces = list(engine.write(["a", "b"], config))
    assert "".join(piece.text for piece in pieces if piece.prompt == 0) == wanted[0]
    assert {piece.prompt for piece in pieces} == {0, 1}


@pytest.mark.parametrize("beams", [1, 4])
def test_what_a_guided_text_was_promised_is_given_back_whatever_its_guide_is(
    model: Model, beams: int
) -> None:
    """Prompts and guides of unlike lengths; a search lets go of texts that it began with."""
    engine = Engine(model.network, model.tokenizer)
    for negative in ("z", "a guide that is longer than the prompt, by far"):
        options = SamplingConfig(
            max_tokens=20, temperature=0, beams=beams, guidance_scale=2.0, negative_prompt=negative
        )
        assert list(engine.write("What", options))
        assert engine.scheduler._reserved == [0]
        assert sorted(engine.scheduler._free) == list(range(engine.executor.count))


def test_a_guide_that_is_longer_than_the_prompt_is_counted_before_anything_is_read(model: Model) -> None:
    options = SamplingConfig(
        max_tokens=20,
        temperature=0,
        guidance_scale=2.0,
        negative_prompt="a guide that is longer than the prompt, by far",
    )
    executor = ModuleExecutor(model.network, 2)
    engine = Engine(
        model.network,
        model.tokenizer,
        executor=ModuleExecutor(
            model.network, 2, limit=3 * executor.pages.page_bytes * len(executor.pages.layer_groups)
        ),
    )
    with pytest.raises(InputError, match="need more memory for keys and values than there is"):
        list(engine.write("What", options))


def test_an_executor_is_taken_by_its_old_name_for_this_release(model: Model) -> None:
    executor = ModuleExecutor(model.network, 1)
    with pytest.warns(DeprecationWarning, match="runner is called executor now"):
        assert Engine(model.network, model.tokenizer, runner=executor).executor is executor
